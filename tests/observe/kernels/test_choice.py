"""Which kernel measures, and that there is always one."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from monitor.observe import kernels
from monitor.observe.criterion import Criterion
from monitor.observe.kernels import kernel_for, numpy_loops, reference
from monitor.observe.kernels.contract import Rules
from monitor.observe.kernels.cpu import CpuKernel
from monitor.observe.kernels.several_devices import SeveralDevices
from monitor.observe.kernels.streamed_base import StreamedBase
from tests.observe.kernels.cases import Case, check_counts, check_state, copied

RULES = Rules(torch.bfloat16, Criterion())

_OBSERVE = """
import logging, sys
logging.basicConfig(level=logging.INFO, stream=sys.stdout)
{before}
import torch
from monitor import UpdateObserver
model = torch.nn.Linear(33, 5, bias=False)
observer = UpdateObserver(model)
model.weight.data += 1.0
print(int(observer.observe(1).changed.sum()), observer._kernel._loops.__name__)
"""


def observed_after(before: str) -> str:
    """Return what a process prints that runs `before`, then observes 165 changes."""
    result = subprocess.run(
        [sys.executable, "-c", _OBSERVE.format(before=before)], capture_output=True, text=True, check=True
    )
    return result.stdout


def test_without_numba_and_triton_numpy_measures() -> None:
    printed = observed_after("sys.modules['numba'] = None; sys.modules['triton'] = None")
    assert "165 monitor.observe.kernels.numpy_loops" in printed
    assert "with numba: the extra `fast`" in printed


def test_a_compiler_that_fails_does_not_stop_anybody() -> None:
    pytest.importorskip("numba")
    printed = observed_after("import numba; numba.njit = lambda **options: 1 / 0")
    assert "165 monitor.observe.kernels.numpy_loops" in printed
    assert "measures without numba, which fails here" in printed


def test_where_no_cache_can_be_written_it_compiles_without_one() -> None:
    pytest.importorskip("numba")
    before = "import numba.core.caching as c; c.FunctionCache._impl_class._locator_classes = []"
    assert "165 monitor.observe.kernels.numba_loops" in observed_after(before)


def test_on_the_cpu_the_compiled_kernel_measures() -> None:
    pytest.importorskip("numba")
    from monitor.observe.kernels import numba_loops

    kernel = kernel_for(Case((33,)).segments(np.random.default_rng(0)), RULES)
    assert isinstance(kernel, CpuKernel)
    assert kernel._loops is numba_loops


def test_a_base_elsewhere_is_streamed_and_a_spread_model_measured_in_parts() -> None:
    near, far = Case((33, 64)).segments(np.random.default_rng(0))
    elsewhere = replace(far, base=far.base.to("meta"))
    assert isinstance(kernel_for([near, elsewhere], RULES), StreamedBase)
    spread = replace(far, current=far.current.to("meta"))
    assert isinstance(kernel_for([near, spread], RULES), SeveralDevices)


def test_parts_of_a_spread_model_give_the_counts_of_the_whole() -> None:
    segments = Case((33, 4097, 0), references=2).segments(np.random.default_rng(0))
    expected = [copied(segment) for segment in segments]
    found = SeveralDevices(lambda part, rules: CpuKernel(numpy_loops))(segments, RULES)
    check_counts(found, reference.measure(expected, RULES), 1e-12)
    for segment, wanted in zip(segments, expected, strict=True):
        check_state(segment, wanted)


def test_a_triton_that_fails_does_not_stop_anybody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("triton")
    from monitor.observe.kernels.gpu import TritonKernel

    def fail(*_: object) -> None:
        raise RuntimeError("no C compiler")

    monkeypatch.setattr(TritonKernel, "prepare", fail)
    monkeypatch.setattr(kernels, "_PIECE_OF_REFERENCE", 1024)
    segments = Case((33, 4097)).segments(np.random.default_rng(0))
    expected = [copied(segment) for segment in segments]
    found = kernels._for_gpu(segments, RULES)(segments, RULES)
    check_counts(found, reference.measure(expected, RULES), 1e-12)
    assert "as triton fails here" in caplog.text


def test_a_changed_list_of_segments_is_seen() -> None:
    """A kernel remembers what it derived from a list, and must notice another one."""
    segments = Case((33, 4097)).segments(np.random.default_rng(0))
    kernel = kernel_for(segments, RULES)
    kernel(segments, RULES)
    others = Case((64,)).segments(np.random.default_rng(1))
    expected = [copied(segment) for segment in others]
    check_counts(kernel(others, RULES), reference.measure(expected, RULES), 1e-12)


@pytest.mark.parametrize(
    "case", [Case((33,)), Case((33, 4097), torch.float32, torch.uint8, step_masks=False, criterion=1e-3)]
)
def test_nothing_is_compiled_after_the_start(case: Case) -> None:
    pytest.importorskip("numba")
    from monitor.observe.kernels import numba_loops

    segments = case.segments(np.random.default_rng(0))
    kernel = kernel_for(segments, case.rules)
    compiled = list(numba_loops.measure.signatures)
    kernel(segments, case.rules)
    assert list(numba_loops.measure.signatures) == compiled
