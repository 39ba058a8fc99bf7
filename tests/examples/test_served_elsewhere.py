"""examples/served_elsewhere.py, with a stand-in of a vLLM server behind a real one of HTTP."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import served_elsewhere
import torch
from torch import nn
from transformers import AutoModelForCausalLM

import monitor
from tests.spooled import recorded_in
from tests.training import vllm_stand_in
from tests.training.vllm_stand_in import LLM


def loss_of(model: nn.Module, samples: torch.Tensor) -> Any:
    return model(samples).logits.square().mean()


@pytest.mark.parametrize("arrives", [True, False])
def test_a_loop_asks_the_server_that_it_samples_from(
    arrives: bool, model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    engine = LLM(str(model))
    engine.serve(dict(policy.named_parameters()))
    engine.leave_out = () if arrives else ("layers.1.mlp",)
    handed_over = []

    def hand_over(trained: nn.Module) -> None:
        handed_over.append(1)
        engine.serve(dict(trained.named_parameters()))

    batches = [torch.tensor([[3, 4, 5 + number]]) for number in range(2)]
    with vllm_stand_in.served(), monitor.watch(policy, None, output_dir=tmp_path, strict=True) as watch:
        server = vllm_stand_in.Client.base_url
        served_elsewhere.train(policy, batches, watch, server, hand_over=hand_over, loss_of=loss_of)
    differing = [
        log.metrics["served_differing_groups"]
        for log in recorded_in(tmp_path, "training_log")
        if "served_groups" in log.metrics
    ]
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(differing) == 1
    assert (differing[0] == 0) == arrives == (not said) == (len(handed_over) == 2)
