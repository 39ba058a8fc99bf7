"""A language model that FSDP2 shards over the processes, as frameworks outside the Trainer shard theirs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.distributed.fsdp import fully_shard

from monitor import Observation
from monitor.errors import ConfigurationError
from tests.counting import changed_by_group
from tests.parallel.test_placement import whole


def load_sharded(directory: str) -> nn.Module:
    """Load a pretrained model in float32 on each process, and keep there what is its own."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    for layer in model.model.layers:
        fully_shard(layer)
    return fully_shard(model)


def save_whole(model: nn.Module, directory: Path) -> None:
    """Gather all weights, which the monitor never does, and let the first process write them."""
    weights = {name: whole(each) for name, each in model.named_parameters()}
    if torch.distributed.get_rank() == 0:
        directory.mkdir()
        save_file(weights, directory / "model.safetensors")


def assert_counted(observation: Observation, base: Path, final: Path) -> None:
    """Check the counts of each group against those of another program, over the files of the whole weights."""
    layers = ["-" if group.layer is None else f"{group.layer:02d}" for group in observation.groups]
    keys = [(layer, group.module) for layer, group in zip(layers, observation.groups, strict=True)]
    counted = dict(zip(keys, observation.changed.tolist(), strict=True))
    assert counted == changed_by_group(base, final)
    assert sum(counted.values()) > 0


def batch(number: int) -> torch.Tensor:
    """A batch of tokens, shape (2, 6)."""
    return torch.randint(0, 30, (2, 6), generator=torch.Generator().manual_seed(number))


def assert_refused_at_once(begin: Callable[[], object]) -> None:
    """Check that a setting which cannot work is named where a framework begins, before it has a model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARSITY_MONITOR_EVERY", "0")
        with pytest.raises(ConfigurationError, match="environment variable SPARSITY_MONITOR_EVERY: every is '0'"):
            begin()


def import_example(name: str) -> Any:
    """Import one of the examples in this process."""
    import importlib

    sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
    return importlib.import_module(name)
