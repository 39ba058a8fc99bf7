"""Observations beside the training, on a model of CUDA that reports what has no order and where the host waits.

The model stands in for CUDA because none is there; cuda_model says what it has of it. The tests marked `gpu` do the same
on a real one, where a missing wait may go well by luck.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.observe.cuda_model import CudaModel
from tests.observe.training_on_model import Training, small_pieces

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="the real one is there")

ACTIONS = [
    "update",
    "start",
    "collect",
    "observe",
    "evaluate",
    "read_masks",
    "save",
    "restore",
    "thaw",
    "exchange_storage",
]
BASE_MODES = ["device", "host", "low_byte"]


@contextmanager
def training(*, devices: int = 1, base_mode: str = "device", triton: bool = True) -> Iterator[Training]:
    with tempfile.TemporaryDirectory() as directory, small_pieces(), CudaModel(devices, triton=triton) as cuda:
        here = Training(cuda, Path(directory), devices=devices, base_mode=base_mode)
        yield here
        assert not cuda.faults, "\n".join(cuda.faults)


@pytest.mark.parametrize("triton", [True, False])
@pytest.mark.parametrize("base_mode", BASE_MODES)
@pytest.mark.parametrize("devices", [1, 2])
def test_each_step_is_observed_beside_the_next(devices: int, base_mode: str, triton: bool) -> None:
    with training(devices=devices, base_mode=base_mode, triton=triton) as here:
        for _ in range(4):
            here.evaluate()
            here.update()
            here.collect()
            here.start()
        here.collect()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    actions=st.lists(st.sampled_from(ACTIONS), max_size=25),
    devices=st.sampled_from([1, 2]),
    base_mode=st.sampled_from(BASE_MODES),
    triton=st.booleans(),
)
def test_whatever_is_called_in_whichever_order(actions: list[str], devices: int, base_mode: str, triton: bool) -> None:
    with training(devices=devices, base_mode=base_mode, triton=triton) as here:
        for action in [*actions, "collect", "read_masks"]:
            getattr(here, action)()
