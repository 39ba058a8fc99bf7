"""The ways in which a training ends, what the service shows of each, and trainings that end so."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple


class Case(NamedTuple):
    """A training that ends in this way.

    Attributes:
        code: see tests/processes.py.
        reason: what the service says, as a regular expression.
        status: the exit status of the process, or minus the signal that killed it; as without the monitor.
        step: of the latest observation.
        environment: of the process.
    """

    code: str
    reason: str
    status: int = 0
    step: int | None = None
    environment: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Ending:
    """A way of ending.

    Attributes:
        way: how the training ends, for people.
        state: what the service shows then.
        reason: what it says, for people.
    """

    way: str
    state: str
    reason: str
    cases: dict[str, Case] = field(default_factory=dict)


_OF_MEMORY = "RuntimeError('CUDA out of memory')"
_LEFT = "the training was left before its end, by an exception that attach(trainer) would have named"
_ENDED = "the training process ended before the training did"
# Until the run has ended, seen from within.
_WAIT = "\nwhile under_way.reporters(): time.sleep(0.05)\n"


def _killed(name: str, **environment: str) -> Case:
    number = signal.Signals[name]
    reason = f"killed by {name}{', in Slurm job 17' if environment else ''}"
    code = f"trainer(observing(), At(3, lambda: os.kill(os.getpid(), signal.{name}))).train()"
    return Case(code, reason, -number, environment=environment)


ENDINGS = (
    Ending(
        "it makes all its steps: `max_steps`, or its epochs",
        "finished",
        "–",
        {
            "max_steps": Case("trainer(observing()).train()", "", step=4),
            "epochs": Case(
                "trainer(observing(), max_steps=-1, num_train_epochs=1, per_device_train_batch_size=8).train()",
                "",
                step=4,
            ),
            "attached, and told to stop at its last step": Case(
                "attached(StopsAtTwo(), max_steps=2).train()", "", step=2
            ),
        },
    ),
    Ending(
        "a callback sets `control.should_training_stop`: `EarlyStoppingCallback`, or one of yours",
        "stopped",
        "stopped early by StopsAtTwo",
        {
            "early stopping": Case(
                "from transformers import EarlyStoppingCallback\n"
                "trainer(observing(), EarlyStoppingCallback(2, 100.0), max_steps=9, eval_strategy='steps', "
                "eval_steps=1, metric_for_best_model='loss').train()",
                "stopped early by EarlyStoppingCallback",
                step=3,
            ),
            "after ours": Case("trainer(observing(), StopsAtTwo()).train()", "stopped early by StopsAtTwo", step=2),
            "before ours": Case("trainer(StopsAtTwo(), observing()).train()", "stopped early by StopsAtTwo", step=2),
            "at a log": Case("attached(StopsAtALog()).train()", "stopped early by StopsAtALog", step=1),
            "one of two": Case(
                "class Other(StopsAtTwo): pass\nattached(StopsAtTwo(), Other()).train()",
                "stopped early by StopsAtTwo or Other",
                step=2,
            ),
        },
    ),
    Ending(
        'updates are dense, with `on_dense="stop"`, or a function that sets the flag',
        "stopped",
        "stopped early by on_dense",
        {
            "stop": Case(
                "dense = DenseThresholds(step=1.0, observations=2, warmup_steps=0)\n"
                "trainer(observing(on_dense='stop', dense_thresholds=dense), max_steps=40, learning_rate=1e-2).train()",
                "stopped early by on_dense",
            ),
        },
    ),
    Ending(
        "SIGTERM, with `enable_jit_checkpoint=True` of transformers",
        "preempted",
        "SIGTERM: transformers saved a checkpoint and ended the training",
        {
            "at a step": Case(
                # transformers takes it for a request some seconds later, in a timer's thread.
                "import threading\n"
                "timers = lambda: [each for each in threading.enumerate() if isinstance(each, threading.Timer)]\n"
                "request = lambda: (os.kill(os.getpid(), signal.SIGTERM), [each.join() for each in timers()])\n"
                "trainer(observing(), At(2, request), enable_jit_checkpoint=True, max_steps=8).train()",
                "SIGTERM: transformers saved a checkpoint and ended the training",
            ),
        },
    ),
    Ending(
        "a signal kills it: SIGTERM, SIGHUP, SIGUSR1, SIGUSR2, SIGXCPU",
        "failed",
        "killed by SIGTERM",
        {name: _killed(name) for name in ("SIGTERM", "SIGHUP", "SIGUSR1")},
    ),
    Ending(
        "such a signal in a job of Slurm, before a time limit or a preemption, or by `scancel`",
        "preempted",
        "killed by SIGTERM, in Slurm job 17",
        {
            **{name: _killed(name, SLURM_JOB_ID="17") for name in ("SIGTERM", "SIGUSR1")},
            "SIGTERM to all processes": Case(
                "def end():\n"
                "    (reporter,) = under_way.reporters()\n"
                "    eventually(lambda: Spool(reporter.directory).attempt(reporter.key).registered)\n"
                "    for process in (reporter.uploader_pid, os.getpid()): os.kill(process, signal.SIGTERM)\n"
                "trainer(observing(), At(3, end)).train()",
                "killed by SIGTERM, in Slurm job 17",
                -signal.SIGTERM,
                environment={"SLURM_JOB_ID": "17"},
            ),
        },
    ),
    Ending(
        "SIGKILL, a crash in C, or `os._exit`",
        "failed",
        "the training process ended without saying why; it may have been killed",
        {
            "SIGKILL": Case(
                "trainer(observing(), At(3, lambda: os.kill(os.getpid(), signal.SIGKILL))).train()",
                "the training process ended without saying why; it may have been killed",
                -signal.SIGKILL,
            ),
            "os._exit": Case(
                "trainer(observing(), At(3, lambda: os._exit(3))).train()",
                "the training process ended without saying why; it may have been killed",
                3,
            ),
        },
    ),
    Ending(
        "an exception, Ctrl-C among them, that ends the process",
        "failed",
        "the exception: RuntimeError: CUDA out of memory",
        {
            "in a callback": Case(
                f"trainer(observing(), At(2, fails({_OF_MEMORY}))).train()", "RuntimeError: CUDA out of memory", 1, 2
            ),
            "in a worker": Case(
                "trainer(observing(), train_dataset=Rows(2), dataloader_num_workers=1).train()",
                r"ValueError: Caught ValueError in DataLoader worker process 0. ValueError: row \d+ is broken",
                1,
                0,
            ),
            "Ctrl-C": Case(
                "trainer(observing(), At(3, lambda: os.kill(os.getpid(), signal.SIGINT))).train()",
                "KeyboardInterrupt",
                -signal.SIGINT,
                3,
            ),
        },
    ),
    Ending(
        "an exception that is caught, after `attach(trainer)`",
        "failed",
        "the exception, at once",
        {
            "one": Case(
                f"with suppress(RuntimeError): attached(At(2, fails({_OF_MEMORY}))).train()\n"
                "assert not under_way.reporters()",
                "RuntimeError: CUDA out of memory",
            ),
            "Ctrl-C": Case(
                "with suppress(KeyboardInterrupt): attached(At(2, fails(KeyboardInterrupt()))).train()\n"
                "assert not under_way.reporters()",
                "KeyboardInterrupt",
            ),
        },
    ),
    Ending(
        "an exception that is caught, with `callbacks=[…]` alone",
        "failed",
        "the exception where a notebook shows it, or while it is being handled; else that the training was left. After "
        "some seconds, or when another training begins",
        {
            "soon": Case(
                f"with suppress(RuntimeError): trainer(observing(), At(2, fails({_OF_MEMORY}))).train(){_WAIT}",
                re.escape(_LEFT),
            ),
            "while it is handled": Case(
                f"try: trainer(observing(), At(2, fails({_OF_MEMORY}))).train()\n"
                "except RuntimeError:\n    while under_way.reporters(): time.sleep(0.05)",
                "RuntimeError: CUDA out of memory",
            ),
            "shown by an interactive session": Case(
                f"try: trainer(observing(), At(2, fails({_OF_MEMORY}))).train()\n"
                f"except RuntimeError as error: sys.last_value = error{_WAIT}",
                "RuntimeError: CUDA out of memory",
            ),
            "a thread that ends": Case(
                "threading.excepthook = lambda *_: None\n"
                f"thread = threading.Thread(target=trainer(observing(), At(2, fails({_OF_MEMORY}))).train)\n"
                f"thread.start(); thread.join(){_WAIT}",
                re.escape(_LEFT),
            ),
            "another training": Case(
                f"with suppress(RuntimeError): trainer(observing(), At(1, fails({_OF_MEMORY}))).train()\n"
                "trainer(observing(RUN + '-2', directory=os.environ['OUTPUT'] + '/2')).train()",
                re.escape(_LEFT),
            ),
        },
    ),
    Ending(
        "`sys.exit(reason)` after `attach(trainer)`",
        "failed",
        "SystemExit: reason",
        {
            "a text": Case("attached(At(2, lambda: sys.exit('no more data'))).train()", "SystemExit: no more data", 1),
            "a number": Case("attached(At(2, lambda: sys.exit(3))).train()", "SystemExit: 3", 3),
        },
    ),
    Ending(
        "`sys.exit(reason)`, or the end of the program, with `callbacks=[…]` alone",
        "failed",
        _ENDED,
        {
            "sys.exit": Case(
                "trainer(observing(), At(2, lambda: sys.exit('no more data'))).train()",
                # The latter where ending the process takes seconds.
                f"{_ENDED}|{re.escape(_LEFT)}",
                1,
                2,
            ),
        },
    ),
)


def as_markdown() -> str:
    """Return the table of all ways."""
    rows = [f"| {each.way} | {each.state} | {each.reason} |" for each in ENDINGS]
    return "\n".join(["| the training ends | state | reason |", "|---|---|---|", *rows])
