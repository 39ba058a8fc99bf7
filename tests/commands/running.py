"""The command in a process of its own, as from a shell: forked, or the installed program where starts or ends count."""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
from contextlib import ExitStack, suppress
from functools import cache

from tests.forked import Nursery, Started
from tests.service.running import COMMAND

PLAIN = {"PATH": "/usr/bin:/bin", "COLUMNS": "80", "PYTHONUTF8": "1"}
"""The environment of a command in a pipe of 80 columns."""
WITHOUT_TYPER = "sys.modules.update(typer=None, rich=None, fastapi=None)"
"""For `command_after`: a training environment."""

_CHANGED = """
import sys
exec(sys.argv.pop(1))
from monitor.cli import main
main()
"""


@cache
def nursery() -> Nursery:
    """Has imported what commands need; there until this Python ends."""
    until_the_end = ExitStack()
    atexit.register(until_the_end.close)
    return until_the_end.enter_context(
        Nursery("monitor.service.server", "monitor.notebook.load", "monitor.analysis.pairs", "monitor.commands.watch")
    )


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """What the command says in a pipe of 80 columns."""
    return nursery().run(arguments, env={**PLAIN, **environment})


def started(*arguments: str) -> Started:
    """The command under way, with its output in pipes."""
    return nursery().start(arguments, env=PLAIN)


def installed(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """What the installed program says in a pipe of 80 columns."""
    return _run([COMMAND, *arguments], environment)


def command_after(change: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The same where this Python ran before it: where a library is not installed, or something is broken."""
    return _run([sys.executable, "-c", _CHANGED, change, *arguments], {})


def in_terminal(*arguments: str, **environment: str) -> tuple[int, str]:
    """The exit status, and all that is shown in a terminal of 80 columns."""
    ours, its = os.openpty()
    env = {"PATH": "/usr/bin:/bin", "TERM": "xterm", "PYTHONUTF8": "1", "COLUMNS": "80", **environment}
    process = subprocess.Popen([COMMAND, *arguments], stdout=its, stderr=its, env=env)
    os.close(its)
    shown = b""
    # What Linux says of a terminal without writers.
    with suppress(OSError):
        while some := os.read(ours, 65536):
            shown += some
    os.close(ours)
    return process.wait(timeout=60), shown.decode()


def shell(line: str) -> subprocess.CompletedProcess[str]:
    """What a line for bash says, in which $S is the command; with the exit status of the first that fails in a pipe."""
    return _run(["bash", "-o", "pipefail", "-c", line], {"S": COMMAND})


def _run(arguments: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments, capture_output=True, text=True, check=False, timeout=120, env={**PLAIN, **environment}
    )
