"""`tests/gpu.sh` without a GPU: it says so, can be rehearsed, and never takes nothing for a success."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.gpu.machine import Machine
from tests.gpu.run import run_stages
from tests.gpu.stages import ROOT, Stage, on_gpu, rehearsal

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, which the command would use")

# As on a machine that has what the kernel needs, and of the rest a little.
LACKING = ("pydantic", "trl", "datasets", "fastapi")
_BLOCKER = f"""
import sys

class Lacking:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {LACKING!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Lacking())
"""
NO_MACHINE = Machine({}, {}, "", "")


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if name != "OUT"}
    return subprocess.run(
        ["bash", str(ROOT / "tests" / "gpu.sh"), *arguments],
        env=inherited | {"PYTHON": sys.executable} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def bare(tmp_path: Path) -> str:
    """A folder for PYTHONPATH that makes this Python one of a bare machine."""
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "sitecustomize.py").write_text(_BLOCKER)
    return str(tmp_path / "bare")


@pytest.mark.parametrize(("arguments", "code"), [((), 1), (("--allow-none",), 0)])
def test_without_a_gpu_it_says_so_and_fails_unless_that_is_allowed(arguments: tuple[str, ...], code: int) -> None:
    result = command(*arguments)
    assert result.stdout.startswith(f"No GPU: torch {torch.__version__} sees no CUDA device.")
    assert result.returncode == code


def test_a_rehearsal_on_a_bare_machine_skips_what_is_missing_with_a_reason(tmp_path: Path, bare: str) -> None:
    stages = "tests,observe-low_byte,overhead-bf16"
    result = command("--interpret", "--only", stages, OUT=str(tmp_path / "out"), PYTHONPATH=bare)
    assert result.returncode == 0, result.stdout + (tmp_path / "out" / "gpu.log").read_text()
    written = (tmp_path / "out" / "gpu.md").read_text()
    assert "**This is no measurement**" in written
    lacking = re.escape("1 skipped (could not import 'pydantic': No module named 'pydantic')")
    assert re.search(rf"\| tests \| done: [1-9]\d* passed, {lacking}, \d+ skipped \(no CUDA device\) \|", written)
    assert "| overhead-bf16 | skipped: pydantic cannot be imported | 0 |" in written
    assert "\n| tiny | bfloat16 | low_byte | 5.5 |" in written


def test_a_run_that_skipped_everything_has_failed(tmp_path: Path, bare: str) -> None:
    result = command("--interpret", "--only", "overhead-bf16", OUT=str(tmp_path), PYTHONPATH=bare)
    assert result.returncode == 1
    assert "nothing ran" in result.stdout


@pytest.mark.parametrize(
    "test",
    ["def test_for_any_machine(): pass", f"@pytest.mark.{'gpu'}\n@pytest.mark.skip(reason='no')\ndef test_it(): pass"],
    ids=["none is for a GPU", "all are skipped"],
)
def test_tests_of_which_none_ran_have_failed(tmp_path: Path, test: str) -> None:
    file = tmp_path / "test_file.py"
    file.write_text(f"import pytest\n\n\n{test}\n")
    options = ("-m", "pytest", "-m", "gpu", "-o", "addopts=", "-p", "tests.gpu.outcomes", "-p", "no:cacheprovider")
    stage = Stage("tests", "Tests", (*options, "-c", os.devnull, "-o", "markers=gpu", str(file)), 120, tests=True)
    assert run_stages([stage], NO_MACHINE, tmp_path / "out", interpret=True) == 1
    assert "FAILED: nothing ran" in (tmp_path / "out" / "gpu.md").read_text()


def test_a_benchmark_that_takes_too_long_is_stopped_and_leaves_what_it_had(tmp_path: Path) -> None:
    printing = "print('| rows |\\n|---|\\n| 1 |', flush=True)"
    stages = [
        Stage("hangs", "Tables", ("-c", f"import signal; {printing}; signal.pause()"), 5),
        Stage("goes on", "Tables", ("-c", printing), 60),
    ]
    assert run_stages(stages, NO_MACHINE, tmp_path, interpret=True) == 1
    written = (tmp_path / "gpu.md").read_text()
    assert "| hangs | STOPPED after 5 s |" in written
    assert "| goes on | done |" in written
    # One table of both, under one head.
    assert "| rows |\n|---|\n| 1 |\n| 1 |\n" in written


def test_a_rehearsal_goes_through_what_a_gpu_is_given() -> None:
    def kinds(stages: list[Stage]) -> set[tuple[str, str]]:
        modules = {stage.name: stage.command[1] for stage in stages}
        return {(stage.section, modules[stage.name]) for stage in stages}

    assert kinds(rehearsal()) == kinds(on_gpu())
    files = {file for stage in rehearsal() if stage.tests for file in stage.command if file.endswith(".py")}
    assert files == {file for stage in on_gpu() if stage.tests for file in stage.command if file.endswith(".py")}
    assert "tests/test_on_gpu.py" in files
