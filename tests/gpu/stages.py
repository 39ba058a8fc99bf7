"""What `tests/gpu.sh` runs, most important first, and how long each may take."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
# A little under nine minutes: a machine may be had for ten.
SECONDS_IN_ALL = 525
_AGREEMENT = "tests/observe/kernels/test_gpu.py"
_MARK = re.compile(r"pytest\.mark\.gpu\b")
# A process takes some 0.6 GiB of the GPU's memory.
_MOST_PROCESSES = 12


@dataclass(frozen=True)
class Stage:
    """A command of its own.

    Attributes:
        name: what `--only` calls it.
        section: heading of the results that it belongs to.
        command: arguments of Python.
        seconds: after which it is stopped.
        wants: modules without which it is skipped.
        tests: whether it runs tests; a benchmark prints the lines of a table.
        all_gpus: whether it sees all of them; a Trainer would put copies of the model on all that it sees.
    """

    name: str
    section: str
    command: tuple[str, ...]
    seconds: int
    wants: tuple[str, ...] = ()
    tests: bool = False
    all_gpus: bool = False


_TRAINER = ("transformers", "accelerate", "pydantic", "google.protobuf")
_TESTS, _OBSERVE, _OVERHEAD, _MEMORY = "Tests", "One observation", "A training run", "Memory"


def on_gpu() -> list[Stage]:
    """Return what runs on a GPU."""
    return [
        _tests("agreement", [_AGREEMENT], 170, processes=min(os.cpu_count() or 1, _MOST_PROCESSES)),
        _observe("7B", "device", 60),
        _tests("tests", _other_files(), 75),
        _observe("0.5B", "device", 40),
        _observe("7B", "low_byte", 40),
        _observe("7B", "host", 60),
        _observe("7B", "shared", 40),
        _overhead("overhead-bf16", "--device", "cuda", "--steps", "100", "--tokens", "512", "--bf16", seconds=60),
        _overhead("overhead", "--device", "cuda", "--steps", "60", "--tokens", "512", seconds=60),
        _observe("0.5B", "low_byte", 30),
        _observe("0.5B", "host", 30),
        _observe("0.5B", "shared", 30),
        Stage("memory", _MEMORY, ("-m", "tests.benchmarks.observe", "--memory", "--device", "cuda"), 120),
    ]


def rehearsal() -> list[Stage]:
    """Return the same with small shapes, on a CPU and in Triton's interpreter."""
    small = ("--device", "interpreter", "--model", "tiny", "--rounds", "2")
    memory = ("-m", "tests.benchmarks.observe", "--memory", "--model", "tiny")
    return [
        _tests("agreement", [_AGREEMENT], 600, processes=2),
        *(
            Stage(f"observe-{mode}", _OBSERVE, ("-m", "tests.benchmarks.observe", *small, "--base", mode), 300)
            for mode in ("device", "low_byte", "host", "shared")
        ),
        _tests("tests", _other_files(), 600),
        _overhead("overhead-bf16", "--steps", "5", "--sequences", "1", "--tokens", "16", "--bf16", seconds=300),
        Stage("memory", _MEMORY, memory, 600),
    ]


def _tests(name: str, files: Sequence[str], seconds: int, processes: int = 1) -> Stage:
    # This machine's versions are others than those that the suite is run with, where warnings are errors.
    command = ["-m", "pytest", "-m", "gpu", "-v", "--tb=short", "-o", "addopts=", "-o", "filterwarnings=default"]
    command += ["-p", "tests.gpu.outcomes", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
    if processes > 1 and importlib.util.find_spec("xdist"):
        command += ["-n", str(processes)]
    wants = ("pytest", "hypothesis", "triton")
    # Of the kernel, some are for several GPUs.
    return Stage(name, _TESTS, (*command, *files), seconds, wants, tests=True, all_gpus=_AGREEMENT in files)


def _other_files() -> list[str]:
    """Return the other files with tests for a GPU. The rest of the suite may want what is not there."""
    files = sorted(path for path in (ROOT / "tests").rglob("test_*.py") if _MARK.search(path.read_text("utf-8")))
    return [name for path in files if (name := path.relative_to(ROOT).as_posix()) != _AGREEMENT]


def _observe(model: str, mode: str, seconds: int) -> Stage:
    command = ("-m", "tests.benchmarks.observe", "--device", "cuda", "--model", model, "--base", mode)
    return Stage(f"observe-{model}-{mode}", _OBSERVE, command, seconds, ("triton",))


def _overhead(name: str, *arguments: str, seconds: int) -> Stage:
    return Stage(name, _OVERHEAD, ("-m", "tests.benchmarks.overhead", *arguments), seconds, _TRAINER)


def as_text(stage: Stage) -> str:
    """Return its command as one would type it."""
    return " ".join(["python", *stage.command])


def whole_command(stage: Stage) -> list[str]:
    """Return its command for this Python."""
    return [sys.executable, *stage.command]
