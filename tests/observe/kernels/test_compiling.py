"""On a CPU, what measures is compiled at the start, kept on disk, told of, and no cost of a step."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip("numba")

from monitor.observe import kernels
from monitor.observe.kernels.cpu import Loops, Widths
from monitor.observe.observer import UpdateObserver

_START = """
import logging, sys
logging.basicConfig(level=logging.INFO, stream=sys.stdout)
import torch
from monitor.observe import kernels
from monitor.observe.observer import UpdateObserver
kernels._LONG_SECONDS = {long}
from monitor.observe.kernels import numba_loops
model = torch.nn.Linear(8, 8)
observer = UpdateObserver(model)
at_the_start = list(numba_loops.measure.signatures)
observer.observe(1)
assert list(numba_loops.measure.signatures) == at_the_start
print("loaded", sum(numba_loops.measure.stats.cache_hits.values()))
print("compiled", sum(numba_loops.measure.stats.cache_misses.values()))
print("in use", len(at_the_start))
"""


def started(cache: Path | None, long: float) -> str:
    """Return what a process prints that begins to observe."""
    program = _START.format(long=long)
    environment = dict(os.environ)
    if cache is not None:
        environment["NUMBA_CACHE_DIR"] = str(cache)
    else:
        # How fast the code is, is nothing to this test, and making it fast takes long.
        environment["NUMBA_OPT"] = "0"
        program = "import numba.core.caching as c; c.FunctionCache._impl_class._locator_classes = []\n" + program
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    return result.stdout


def test_a_second_start_loads_what_the_first_has_compiled(tmp_path: Path) -> None:
    first, second = started(tmp_path, long=0.0), started(tmp_path, long=kernels._LONG_SECONDS)
    assert "loaded 0\ncompiled 1" in first
    assert "has compiled what measures on the CPU, once, in" in first
    assert f"kept in {tmp_path}" in first
    assert "loaded 1\ncompiled 0" in second
    assert "has compiled" not in second


def test_where_no_cache_can_be_kept_it_compiles_without_one_and_says_what_to_do() -> None:
    printed = started(None, long=0.0)
    assert "in use 1" in printed
    assert "WARNING" in printed
    assert "will again at each start" in printed
    assert "Set NUMBA_CACHE_DIR to a directory" in printed


@pytest.fixture
def compiler_seconds(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Lets each compilation take a thousand seconds on the clock, and nothing of anybody's time."""
    spent: list[float] = []
    clock, compile_loops = time.perf_counter, kernels.compile_loops

    def compile_slowly(loops: Loops, widths: Widths) -> None:
        compile_loops(loops, widths)
        spent.append(1000.0)

    monkeypatch.setattr(time, "perf_counter", lambda: clock() + sum(spent))
    monkeypatch.setattr(kernels, "compile_loops", compile_slowly)
    kernels._loops_for.cache_clear()
    yield spent
    kernels._loops_for.cache_clear()


def train(model: nn.Module, observer: UpdateObserver, step: int) -> float:
    """Return what an observation after a step costs, in seconds of the thread."""
    observer.follow(model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.5)
    return observer.observe(step).host_seconds


def test_compiling_is_no_cost_of_a_step(compiler_seconds: list[float], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="monitor")
    model = nn.ModuleDict({"a": nn.Linear(8, 8), "late": nn.Linear(8, 8).to(torch.bfloat16)})
    model["late"].requires_grad_(False)
    observer = UpdateObserver(model)
    assert len(compiler_seconds) == 1
    told = re.search("has compiled what measures on the CPU, once, in ([0-9]+) s", caplog.text)
    # And as long as it does take where nobody has compiled it before.
    assert told is not None
    assert int(told[1]) >= 1000
    assert train(model, observer, 1) < 100
    # In another dtype, so that it is compiled for once more.
    model["late"].requires_grad_(True)
    assert train(model, observer, 2) < 100
    assert len(compiler_seconds) > 1
    compiled = len(compiler_seconds)
    observation = observer.observe(3)
    assert observation.overhead is not None
    assert observation.host_seconds < 100
    assert len(compiler_seconds) == compiled


def test_what_adapters_make_is_compiled_for_at_the_start(compiler_seconds: list[float]) -> None:
    peft = pytest.importorskip("peft")
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)).to(torch.bfloat16)
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["0"], r=2, modules_to_save=["1"]))
    observer = UpdateObserver(adapted)
    compiled = len(compiler_seconds)
    assert compiled > 0
    assert train(adapted, observer, 1) < 100
    assert len(compiler_seconds) == compiled
