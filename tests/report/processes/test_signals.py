"""Noting signals changes nothing about how a process answers them: the same program, with it and without."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

_PROGRAM = """
import faulthandler, os, signal, sys, time
from monitor.report.processes.signals import killed_by, note_signals
# As in a terminal, whoever started the tests: in the background or by nohup, these are ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
handled = lambda number, frame: print("handled", number, flush=True)
{before}
noted = note_signals() if {note} else {{}}
{after}
print("survived", signal.getsignal(signal.SIGTERM), flush=True)
print("noted", killed_by(noted), file=sys.stderr)
sys.exit(7)
"""
_SEND = "os.kill(os.getpid(), signal.{})"


def ended(before: str, after: str, *, note: bool) -> tuple[int, str, str]:
    """The exit status of the program, what it wrote, and what was noted where it survived."""
    code = _PROGRAM.format(before=before, after=after, note=note)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, re.sub("0x[0-9a-f]+", "…", done.stdout), done.stderr


# Another process sends it while this one is in C code and holds the GIL: no handler written in Python would run.
_IN_C = """
import hashlib, subprocess
subprocess.Popen(["sh", "-c", f"sleep 0.3; kill -TERM {os.getpid()}"])
sum(range(10**13))
"""
_CHILD_IS_KILLED = """
if (child := os.fork()) == 0:
    time.sleep(60)
os.kill(child, signal.SIGTERM)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
_LOOP = """
import asyncio
async def main():
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: print("in the loop", flush=True))
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.sleep(0.1)
asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("before", "after", "status"),
    [
        *(("", _SEND.format(name), None) for name in ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGALRM")),
        ("", "try: os.kill(os.getpid(), signal.SIGINT)\nexcept KeyboardInterrupt: print('interrupted')", 7),
        ("", _SEND.format("SIGINT"), -2),
        ("signal.signal(signal.SIGTERM, handled)", _SEND.format("SIGTERM"), 7),
        ("", "signal.signal(signal.SIGTERM, handled)\n" + _SEND.format("SIGTERM"), 7),
        ("", "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n" + _SEND.format("SIGTERM"), 143),
        ("signal.signal(signal.SIGHUP, signal.SIG_IGN)", _SEND.format("SIGHUP"), 7),
        ("", "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + _SEND.format("SIGHUP"), 7),
        (
            "",
            "old = signal.signal(signal.SIGTERM, handled)\nsignal.signal(signal.SIGTERM, old)\n"
            + _SEND.format("SIGTERM"),
            -15,
        ),
        ("faulthandler.register(signal.SIGUSR1, sys.stdout)", _SEND.format("SIGUSR1"), 7),
        ("", "faulthandler.register(signal.SIGUSR1, sys.stdout)\n" + _SEND.format("SIGUSR1"), 7),
        ("", _IN_C, -15),
        ("", _CHILD_IS_KILLED, 7),
        ("", _LOOP, 7),
        ("", "import subprocess\nprint(subprocess.run(['sh', '-c', 'kill -TERM $$']).returncode, flush=True)", 7),
    ],
)
def test_a_process_answers_signals_as_it_does_without_the_monitor(before: str, after: str, status: int | None) -> None:
    with_it, without = ended(before, after, note=True), ended(before, after, note=False)
    assert with_it[:2] == without[:2]
    assert with_it[0] == status if status is not None else with_it[0] < 0
    # What did not kill this process is not taken for what did.
    assert with_it[2] == ("noted None\n" if status == 7 else without[2])


@pytest.mark.parametrize(
    "sandbox",
    [
        # What gVisor has in this file: no line on signals.
        "signals._STATUS = Path(sys.argv[1])",
        # Where memory that could be executed is forbidden (vm.memfd_noexec=2).
        "os.memfd_create = forbidden",
        "faulthandler.register = forbidden",
    ],
)
def test_where_signals_cannot_be_noted_runs_are_reported_all_the_same(sandbox: str, tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nSeccomp:\t0\n")
    program = f"""
import faulthandler, os, sys
from pathlib import Path
from monitor.report.processes import signals
def forbidden(*args, **kwargs): raise PermissionError(13, "Permission denied")
{sandbox}
print(dict(signals.note_signals()))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(status)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("{}\n", "")
