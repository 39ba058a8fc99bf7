"""Training processes for tests: each is forked from one that has imported what trainings need, and ends as it likes.

What a process does is a piece of code, which has the names below, and runs as the main program.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple, Self

ROOT = Path(__file__).parents[2]


class Ended(NamedTuple):
    """How a process ended: as `subprocess` has it, minus the signal that killed it, and what it wrote."""

    status: int
    written: str


class TrainingProcesses:
    """Runs training processes, one at a time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._number = 0
        command = [sys.executable, "-m", "tests.training.processes"]
        self._nursery = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._nursery.stdin is not None
        assert self._nursery.stdout is not None
        self._nursery.stdin.close()
        self._nursery.wait(60)
        self._nursery.stdout.close()

    def run(self, code: str, environment: dict[str, str] | None = None, **names: Any) -> Ended:
        """Run a piece of code to its end, with these names besides."""
        assert self._nursery.stdin is not None
        assert self._nursery.stdout is not None
        self._number += 1
        output = self._directory / f"process-{self._number}"
        output.mkdir()
        given = {"code": code, "environment": environment or {}, "names": {"OUTPUT": str(output), **names}}
        print(json.dumps(given), file=self._nursery.stdin, flush=True)
        status = int(self._nursery.stdout.readline())
        return Ended(status, (output / "written.txt").read_text())


if __name__ == "__main__":
    # What a piece of code may use.
    import signal
    import threading
    import time

    import torch
    from transformers import EarlyStoppingCallback, Trainer, TrainerCallback

    from monitor import SparsityCallback
    from tests.eventually import eventually
    from tests.tiny import common_arguments, plain_trainer, token_data

    class At(TrainerCallback):  # type: ignore[misc]
        """Does something at the end of a step."""

        def __init__(self, step: int, act: Any) -> None:
            self.step = step
            self.act = act

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == self.step:
                self.act()

    class StopsAtTwo(TrainerCallback):  # type: ignore[misc]
        """Stops the training as users' callbacks do."""

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 2:
                control.should_training_stop = True

    def fail(error: BaseException) -> Any:
        """A function that raises it."""

        def raising() -> None:
            raise error

        return raising

    def observing(**settings: Any) -> SparsityCallback:
        return SparsityCallback(TARGET, "test", **{"run_id": RUN, **settings})

    def trainer(*callbacks: Any, directory: str = "", **changes: Any) -> Trainer:
        """A trainer of four steps."""
        arguments = common_arguments(Path(OUTPUT, directory), gradient_accumulation_steps=1, **changes)
        return plain_trainer(Path(MODEL), arguments, list(callbacks))

    RUN = TARGET = MODEL = OUTPUT = ""
    for _line in sys.stdin:
        _given = json.loads(_line)
        if (_child := os.fork()) == 0:
            globals().update(_given["names"])
            os.environ.update(_given["environment"])
            _written = os.open(f"{OUTPUT}/written.txt", os.O_WRONLY | os.O_CREAT)
            os.dup2(_written, 1)
            os.dup2(_written, 2)
            os.close(0)
            # Raises as the main program does, and ends it.
            exec(compile(_given["code"], "training", "exec"))  # noqa: S102
            break
        print(os.waitstatus_to_exitcode(os.waitpid(_child, 0)[1]), flush=True)
