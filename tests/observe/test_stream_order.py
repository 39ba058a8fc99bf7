"""Observations beside the training, on a model of CUDA that reports what has no order and where the host waits.

The model stands in for CUDA because none is there; cuda_model says what it has of it. The tests marked `gpu` do the
same on a real one, where a missing wait may go well by luck.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from monitor.observe.kernels.contract import Counts, Rules, Segment
from monitor.observe.kernels.gpu import TritonKernel
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
BASE_MODES = ["device", "host", "low_byte", "shared"]


@contextmanager
def training(
    *, devices: int = 1, base_mode: str = "device", triton: bool = True, own_stream: bool = False
) -> Iterator[Training]:
    with tempfile.TemporaryDirectory() as directory, small_pieces(), CudaModel(devices, triton=triton) as cuda:
        with torch.cuda.stream(torch.cuda.Stream() if own_stream else torch.cuda.current_stream()):
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
    own_stream=st.booleans(),
)
def test_whatever_is_called_in_whichever_order(
    actions: list[str], devices: int, base_mode: str, triton: bool, own_stream: bool
) -> None:
    with training(devices=devices, base_mode=base_mode, triton=triton, own_stream=own_stream) as here:
        for action in [*actions, "collect", "read_masks"]:
            getattr(here, action)()


@pytest.mark.parametrize("base_mode", BASE_MODES)
@pytest.mark.parametrize("devices", [1, 2])
def test_an_observer_that_is_dropped_leaves_its_memory_when_its_pass_is_done(devices: int, base_mode: str) -> None:
    with training(devices=devices, base_mode=base_mode) as here:
        here.update()
        here.start()
        with here.cuda.nobody_waits():
            del here.observer
            here.evaluate()


def failing_after_its_launch(patches: pytest.MonkeyPatch, call: int) -> None:
    """Let a kernel run out of memory when it has been launched already."""
    measure, calls = TritonKernel.__call__, itertools.count(1)

    def fail(self: TritonKernel, segments: Sequence[Segment], rules: Rules) -> Counts:
        counts = measure(self, segments, rules)
        if next(calls) == call:
            raise torch.OutOfMemoryError("for this test")
        return counts

    patches.setattr(TritonKernel, "__call__", fail)


@pytest.mark.parametrize("call", [1, 2, 3])
@pytest.mark.parametrize("base_mode", BASE_MODES[:2])
def test_a_pass_that_fails_half_way_is_in_nobodys_way(
    monkeypatch: pytest.MonkeyPatch, base_mode: str, call: int
) -> None:
    with training(base_mode=base_mode) as here:
        here.update()
        with monkeypatch.context() as patches:
            failing_after_its_launch(patches, call if base_mode == "host" else 1)
            with here.cuda.doing("a start that fails"), pytest.raises(torch.OutOfMemoryError):
                here.observer.start(1)
        here.update()
        here.observer.start(2)
        here.update()
        here.observer.collect()
