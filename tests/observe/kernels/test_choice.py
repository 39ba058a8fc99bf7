"""Which kernel measures, and that there is always one."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from monitor.observe import kernels
from monitor.observe.criterion import Criterion
from monitor.observe.kernels import kernel_for, numpy_loops, reference
from monitor.observe.kernels.contract import Rules
from monitor.observe.kernels.cpu import CpuKernel
from monitor.observe.kernels.in_chunks import ReferenceInChunks
from monitor.observe.kernels.several_devices import SeveralDevices
from monitor.observe.kernels.streamed_base import StreamedBase
from tests.observe.kernels.cases import Case, check_counts, check_state, copied

ROOT = Path(__file__).parents[3]
RULES = Rules(torch.bfloat16, Criterion())

_OBSERVE = """
import logging, sys
logging.basicConfig(level=logging.INFO, stream=sys.stdout)
{before}
import torch
from monitor.observe.criterion import Criterion
from monitor.observe.kernels import kernel_for
from monitor.observe.kernels.contract import CHANGED, Rules, Segment
segment = Segment(torch.ones(165), torch.zeros(165), torch.zeros(6, dtype=torch.int32))
kernel = kernel_for([segment], Rules(torch.bfloat16, Criterion()))
print(int(kernel().integers[0, CHANGED]), kernel.loops.__name__)
"""


def observed_after(before: str) -> str:
    """Return what a process prints that runs `before`, then counts 165 changes."""
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


def test_on_the_cpu_the_compiled_kernel_measures() -> None:
    pytest.importorskip("numba")
    from monitor.observe.kernels import numba_loops

    kernel = kernel_for(Case((33,)).segments(np.random.default_rng(0)), RULES)
    assert isinstance(kernel, CpuKernel)
    assert kernel.loops is numba_loops


def test_a_base_elsewhere_is_streamed_and_a_spread_model_measured_in_parts() -> None:
    near, far = Case((33, 64)).segments(np.random.default_rng(0))
    elsewhere = replace(far, base=far.base.to("meta"))
    assert isinstance(kernel_for([near, elsewhere], RULES), StreamedBase)
    spread = replace(far, current=far.current.to("meta"))
    assert isinstance(kernel_for([near, spread], RULES), SeveralDevices)


def test_parts_of_a_spread_model_give_the_counts_of_the_whole() -> None:
    segments = Case((33, 4097, 0), references=2).segments(np.random.default_rng(0))
    expected = [copied(segment) for segment in segments]
    found = SeveralDevices(segments, RULES, partial(CpuKernel, loops=numpy_loops))()
    check_counts(found, reference.measure(expected, RULES), 1e-12)
    for segment, wanted in zip(segments, expected, strict=True):
        check_state(segment, wanted)


def test_a_triton_that_fails_does_not_stop_anybody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("triton")
    from monitor.observe.kernels import gpu

    tries = []

    def fail(*_: object) -> None:
        tries.append(1)
        raise RuntimeError("no C compiler")

    monkeypatch.setattr(gpu, "_measure", fail)
    gpu._why_not.cache_clear()
    monkeypatch.setattr(kernels, "WEIGHTS_IN_REFERENCE", 1024)
    segments = Case((33, 4097)).segments(np.random.default_rng(0))
    for _ in range(2):
        expected = [copied(segment) for segment in segments]
        check_counts(kernels._for_gpu(segments, RULES)(), reference.measure(expected, RULES), 1e-12)
    assert "as triton fails here" in caplog.text
    assert len(tries) == 1, "what failed is not tried again for each pass over an adapter's weights"


@pytest.mark.parametrize("version", ["3.2.0", "3.2.0+git0d4682f0", "3.1.0", "2.3.1"])
def test_a_triton_that_miscounts_is_not_used(
    version: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    triton = pytest.importorskip("triton")
    monkeypatch.setattr(triton, "__version__", version)
    kernels._warn_once.cache_clear()
    segments = Case((33, 4097)).segments(np.random.default_rng(0))
    expected = [copied(segment) for segment in segments]
    kernel = kernels._for_gpu(segments, RULES)
    assert isinstance(kernel, ReferenceInChunks)
    check_counts(kernel(), reference.measure(expected, RULES), 1e-12)
    assert f"does not trust triton {version} to count. Install triton 3.3 or newer" in caplog.text


@pytest.mark.parametrize("version", ["3.3.0", "3.3.1", "3.10.0", "4.0.0+git1234"])
def test_a_triton_that_counts_right_is_used(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    triton = pytest.importorskip("triton")
    from monitor.observe.kernels import gpu

    monkeypatch.setattr(triton, "__version__", version)
    monkeypatch.setattr(gpu.TritonKernel, "_compile", lambda self: None)
    assert isinstance(kernels._for_gpu(Case((33,)).segments(np.random.default_rng(0)), RULES), gpu.TritonKernel)


def test_the_extra_asks_for_the_triton_that_is_used() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras["triton"] == [f"triton>={kernels.LOWEST_TRITON}; sys_platform == 'linux'"]


@pytest.mark.parametrize(
    "case", [Case((33,)), Case((33, 4097), torch.float32, torch.uint8, step_masks=False, criterion=1e-3)]
)
def test_nothing_is_compiled_after_the_start(case: Case) -> None:
    pytest.importorskip("numba")
    from monitor.observe.kernels import numba_loops

    segments = case.segments(np.random.default_rng(0))
    kernel = kernel_for(segments, case.rules)
    compiled = list(numba_loops.measure.signatures)
    kernel()
    assert list(numba_loops.measure.signatures) == compiled
