"""The command in processes of its own, each forked from one that has imported what it needs: it starts faster.

For tests of what the command does. Those of how it starts, of what it imports, and of what Python takes apart after it,
start the installed program.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parents[1]


class Started:
    """A process, with what `subprocess.Popen` has of one whose output is piped."""

    def __init__(self, nursery: Nursery, pid: int, stdout: int, stderr: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._written: tuple[str, str] | None = None
        self.stdout, self.stderr = open(stdout), open(stderr)  # noqa: SIM115 (closed by whoever reads them to the end)
        self._nursery = nursery
        self._end = os.pidfd_open(pid)

    def poll(self) -> int | None:
        """Return the exit status if it has ended, minus the signal that killed it."""
        if self.returncode is None and select.select([self._end], [], [], 0)[0]:
            self._collect()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end, and return the exit status, minus the signal that killed it."""
        if self.returncode is None and not select.select([self._end], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired("sparsity-monitor", timeout or 0)
        return self._collect()

    def communicate(self, timeout: float = 120) -> tuple[str, str]:
        """Return what it writes until its end, the same when asked again. Kills it if that takes longer."""
        if self._written is None:
            killing = threading.Timer(timeout, self.kill)
            killing.start()
            with self.stdout, self.stderr, ThreadPoolExecutor(1) as beside:
                said = beside.submit(self.stderr.read)
                self._written = self.stdout.read(), said.result()
            killing.cancel()
            killing.join()
            self.wait(timeout)
        return self._written

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            signal.pidfd_send_signal(self._end, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _collect(self) -> int:
        if self.returncode is None:
            self.returncode = self._nursery.status_of(self.pid)
            os.close(self._end)
        return self.returncode


class Nursery:
    """Has imported what the command needs, and becomes it.

    Args:
        needed: the modules that it imports.
    """

    def __init__(self, *needed: str) -> None:
        self._asking, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # A test's threads may ask at once.
        self._lock = threading.Lock()
        command = [sys.executable, "-m", __name__, str(its.fileno()), *needed]
        with its:
            self._process = subprocess.Popen(command, cwd=ROOT, pass_fds=[its.fileno()])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._asking.close()
        self._process.wait(timeout=60)

    def start(self, arguments: Sequence[str], env: Mapping[str, str] | None = None, cwd: Path = ROOT) -> Started:
        """Start the command with these arguments."""
        asked = {
            "arguments": list(arguments),
            "environment": dict(os.environ if env is None else env),
            "directory": str(cwd),
        }
        stdout, its_stdout = os.pipe()
        stderr, its_stderr = os.pipe()
        pid = self._ask(asked, [its_stdout, its_stderr])
        for descriptor in (its_stdout, its_stderr):
            os.close(descriptor)
        return Started(self, pid, stdout, stderr)

    def run(self, arguments: Sequence[str], **start: Any) -> subprocess.CompletedProcess[str]:
        """Run the command to its end."""
        started = self.start(arguments, **start)
        written, said = started.communicate(timeout=120)
        return subprocess.CompletedProcess(list(arguments), started.wait(), written, said)

    def status_of(self, pid: int) -> int:
        """Return the exit status of a process that has ended, once."""
        return self._ask({"collect": pid}, [])

    def _ask(self, asked: dict[str, Any], descriptors: list[int]) -> int:
        with self._lock:
            socket.send_fds(self._asking, [json.dumps(asked).encode()], descriptors)
            return int(self._asking.recv(100))


def _become(arguments: list[str], environment: dict[str, str], directory: str, descriptors: list[int]) -> None:
    """Be the command."""
    for descriptor, standard in zip(descriptors, (1, 2), strict=True):
        os.dup2(descriptor, standard)
        os.close(descriptor)
    # What these are was found out when the nursery started.
    sys.stdout, sys.stderr = open(1, "w"), open(2, "w", buffering=1, errors="backslashreplace")  # noqa: SIM115
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    sys.argv = ["sparsity-monitor", *arguments]
    # Else its name would be that of a module that Python was told to run.
    sys.modules["__main__"].__package__ = None
    # As in a terminal, whoever started the tests.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    _end_with(main)


def _end_with(program: Callable[[], object]) -> None:
    """Run a program, and end this process as Python does, but for taking apart what is imported: that would copy it."""
    status: int | None = None

    def leave() -> None:
        if status is not None:
            sys.stdout.flush()
            os._exit(status)

    # Comes last of what is done at the end, and after what Python says of it.
    atexit.register(leave)
    try:
        program()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise


if __name__ == "__main__":
    gc.disable()
    # Under the name that the installed program has it from.
    from sparsity_monitor.cli import Ending, app_of, main

    # Every command is put together at each start, with what that imports.
    app_of(Ending())
    for module in sys.argv[2:]:
        importlib.import_module(module)
    gc.enable()
    # What is imported is not looked through at the end of each child.
    gc.collect()
    gc.freeze()

    answering = socket.socket(fileno=int(sys.argv[1]))
    while (received := socket.recv_fds(answering, 1 << 20, 2))[0]:
        asked = json.loads(received[0])
        if "collect" in asked:
            answer = os.waitstatus_to_exitcode(os.waitpid(asked["collect"], 0)[1])
        elif (answer := os.fork()) == 0:
            answering.close()
            _become(**asked, descriptors=received[1])
            break
        for descriptor in received[1]:
            os.close(descriptor)
        answering.send(str(answer).encode())
