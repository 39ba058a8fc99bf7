"""Runs every test that needs a GPU, then the benchmarks on it, and writes what came out. `tests/gpu.sh` starts it."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from tests.gpu.machine import Machine, look
from tests.gpu.results import Results, Run
from tests.gpu.stages import ROOT, SECONDS_IN_ALL, Stage, on_gpu, rehearsal, whole_command

_HEADING = ["# One run of `tests/gpu.sh`"]
_REHEARSED = [
    "# A rehearsal of `tests/gpu.sh`",
    "",
    "Triton's interpreter on a CPU, with small shapes. **This is no measurement**: it says that the script and the "
    "tests work, and nothing of a GPU.",
]
_NOTHING_COLLECTED = 5
# A stage that would be stopped right away says less than one that was not begun.
_LEAST_SECONDS = 10


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests/gpu.sh", description=__doc__)
    parser.add_argument("--allow-none", action="store_true", help="succeed where there is no GPU")
    parser.add_argument("--interpret", action="store_true", help="rehearse on a CPU, with small shapes")
    parser.add_argument("--only", help="names of stages, with commas between them")
    arguments = parser.parse_args()
    # Ends the stage under way, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    machine = look()
    if "torch" in machine.missing:
        print(f"{sys.executable} has no torch: {machine.missing['torch']}. PYTHON names another one.", file=sys.stderr)
        return 1
    if not machine.card and not arguments.interpret:
        print(f"No GPU: {machine.why_none}. Nothing was run. `--interpret` rehearses on a CPU.")
        return 0 if arguments.allow_none else 1
    stages = rehearsal() if arguments.interpret else on_gpu()
    if arguments.only:
        names = arguments.only.split(",")
        if unknown := set(names) - {stage.name for stage in stages}:
            parser.error(f"--only names {', '.join(sorted(unknown))}; there are {', '.join(s.name for s in stages)}")
        stages = [stage for stage in stages if stage.name in names]
    if not os.environ.get("OUT"):
        parser.error("the environment variable OUT is not set: it names the folder that results are written to")
    return run_stages(stages, machine, Path(os.environ["OUT"]), interpret=arguments.interpret)


def run_stages(stages: Sequence[Stage], machine: Machine, out: Path, *, interpret: bool) -> int:
    """Run one stage after the other, write what comes into the folder, and return the exit code."""
    out.mkdir(parents=True, exist_ok=True)
    deadline = None if interpret else time.monotonic() + SECONDS_IN_ALL
    with tempfile.TemporaryDirectory() as scratch, (out / "gpu.log").open("w", encoding="utf-8") as log:
        runs = [Run(stage, Path(scratch) / stage.name) for stage in stages]
        results = Results(out / "gpu.md", _REHEARSED if interpret else _HEADING, machine.rows(), runs)
        results.write()
        for run in runs:
            missing = [module for module in run.stage.wants if module in machine.missing]
            left = float(run.stage.seconds) if deadline is None else deadline - time.monotonic()
            if missing:
                run.ended, run.skipped = f"skipped: {', '.join(missing)} cannot be imported", True
            elif left < min(_LEAST_SECONDS, run.stage.seconds):
                run.ended, run.failed = "not run: no time was left", True
            else:
                _StageProcess(run, results, log, interpret).wait(min(run.stage.seconds, left))
            results.write()
            print(run.row(), flush=True)
        print(f"\nwritten: {out / 'gpu.md'}, {out / 'gpu.log'}")
        return _judge(runs)


def _judge(runs: Sequence[Run]) -> int:
    """Return the exit code: a run that ran nothing has found nothing out."""
    ran = [run for run in runs if not run.skipped]
    if any(run.failed for run in runs):
        print("FAILED: " + ", ".join(run.stage.name for run in runs if run.failed))
        return 1
    if not ran:
        print("FAILED: nothing ran, everything was skipped")
        return 1
    return 0


class _StageProcess:
    """One stage under way. What it prints goes to the log, and the lines of a benchmark into the results."""

    def __init__(self, run: Run, results: Results, log: IO[str], interpret: bool) -> None:
        self._run, self._results, self._log = run, results, log
        environment = os.environ | {"PYTHONUNBUFFERED": "1", "GPU_OUTCOMES": str(run.outcomes)}
        if interpret:
            environment |= {"REHEARSE_GPU_TESTS": "1", "TRITON_INTERPRET": "1", "OMP_WAIT_POLICY": "passive"}
        if not run.stage.all_gpus:
            environment["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
        log.write(f"\n=== {run.stage.name}: {' '.join(run.stage.command)}\n")
        log.flush()
        run.ended = ""
        self._began = time.monotonic()
        self._process = subprocess.Popen(
            whole_command(run.stage),
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            # Beside a benchmark's table there is much that libraries have to say.
            stderr=log if not run.stage.tests else subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def wait(self, seconds: float) -> None:
        """Wait until it has ended, or end it."""
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._run.ended, self._run.failed = f"STOPPED after {seconds:.0f} s", True
        else:
            self._judge(code)
        finally:
            self._end_group()
        self._run.seconds = time.monotonic() - self._began

    def _judge(self, code: int) -> None:
        run = self._run
        nothing = run.stage.tests and not run.passed()
        run.failed = code != 0 or nothing
        if code == _NOTHING_COLLECTED or (nothing and code == 0):
            run.ended = "FAILED: nothing ran"
        elif code:
            run.ended = f"FAILED with exit code {code}, see gpu.log"
        else:
            run.ended = "done"

    def _end_group(self) -> None:
        # It has a process group of its own: whatever it started and left goes with it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        # One that waits for a GPU that hangs cannot be killed: the next stage says whether the GPU still works.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        self._reading.join(timeout=5)

    def _read(self) -> None:
        stdout = self._process.stdout
        assert stdout is not None
        with stdout:
            for line in stdout:
                self._log.write(line)
                self._log.flush()
                if not self._run.stage.tests:
                    self._run.lines.append(line.rstrip("\n"))
                    self._results.write()
                elif "FAILED" in line or "ERROR" in line:
                    print(line, end="", flush=True)


if __name__ == "__main__":
    sys.exit(main())
