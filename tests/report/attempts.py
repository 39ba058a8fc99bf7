"""Attempts of runs to report in tests: a small observed model, and what it sends."""

from __future__ import annotations

import torch
from torch import nn

from monitor.observe.observation import Observation
from monitor.observe.observer import UpdateObserver
from monitor.report.registration import new_run_id, registration_message
from monitor.wire import monitor_pb2 as pb


class TinyModel(nn.Module):
    """Two layers with parameter names as language models have them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(10, 4)
        self.layers = nn.ModuleList(nn.ModuleDict({"up_proj": nn.Linear(4, 8), "norm": nn.LayerNorm(4)}) for _ in "ab")


class ObservedModel:
    """A model whose weights move, and its observer."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = TinyModel()
        self.observer = UpdateObserver(self.model)
        self.step = 0

    def train_and_observe(self) -> Observation:
        """Change the weights a little and observe them."""
        self.step += 1
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.add_(torch.rand_like(parameter), alpha=0.01)
        return self.observer.observe(self.step)

    def registration(self, run_id: str | None = None, **fields: object) -> pb.Registration:
        return registration_message(self.observer, run_id=run_id or new_run_id("test"), name="test", **fields)
