"""Processes for tests: each is forked from one that has imported what they need, and ends as it likes."""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple, Self

ROOT = Path(__file__).parents[1]


class Ended(NamedTuple):
    """How a process ended: its exit status, or minus the signal that killed it, and all that it wrote."""

    status: int
    written: str


class Processes:
    """Runs pieces of code as main programs, one at a time, with modules imported that they need."""

    def __init__(self, directory: Path, *needed: str) -> None:
        self._directory = directory
        self._number = 0
        command = [sys.executable, "-m", "tests.processes", *needed]
        self._nursery = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._nursery.communicate(timeout=60)

    def run(self, code: str, **environment: str) -> Ended:
        """Run a piece of code to its end. OUTPUT is a directory of its own, unless the environment names another."""
        assert self._nursery.stdin is not None
        assert self._nursery.stdout is not None
        self._number += 1
        output = self._directory / f"process-{self._number}"
        output.mkdir()
        given = {
            "code": code,
            "written": str(output / "written.txt"),
            "environment": {"OUTPUT": str(output), **environment},
        }
        print(json.dumps(given), file=self._nursery.stdin, flush=True)
        status = int(self._nursery.stdout.readline())
        return Ended(status, (output / "written.txt").read_text())


def _become(code: str, written: str, environment: dict[str, str]) -> None:
    """Be the process that runs a piece of code: what it raises, ends this process as it ends any main program."""
    os.environ.update(environment)
    # As in a terminal, whoever started the tests: in the background or by nohup, these are ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    file = os.open(written, os.O_WRONLY | os.O_CREAT)
    for descriptor in (1, 2):
        os.dup2(file, descriptor)
    exec(compile(code, "training", "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    gc.disable()
    for needed in sys.argv[1:]:
        importlib.import_module(needed)
    gc.enable()
    # What is imported is not looked through at the end of each child.
    gc.collect()
    gc.freeze()

    # Not `for line in sys.stdin`: the child would read on what the parent has buffered.
    while line := sys.stdin.readline():
        if (child := os.fork()) == 0:
            _become(**json.loads(line))
            break
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
