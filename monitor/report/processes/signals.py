"""Which signal killed the training process: noted as it dies, read by its uploader, which outlives it.

A signal whose default is to kill still kills, at once and with the same exit status, also where the training hangs in
C code, in which no handler written in Python would ever run. For that, `faulthandler` notes the signal: its handler is
in C, writes to a descriptor, and calls the one before it. Where anybody else handles a signal, nothing is changed; who
handles it later, replaces ours.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

logger = logging.getLogger(__name__)

_NAMES = ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
_STATUS = Path("/proc/self/status")

# Name → descriptor of a file in memory, which the handler writes to. For the life of the process: unregistering could
# take away a handler that somebody has set since.
_noted: dict[str, int] = {}


def note_signals() -> Mapping[str, int]:
    """Have signals noted that kill this process, and return name → descriptor of each; none where that is impossible.

    The descriptors are for `killed_by`, in a process that inherits them. Never raises.
    """
    try:
        _note_all()
    except Exception:
        # Where a sandbox forbids it: the run is reported all the same.
        logger.debug("signals that kill this process are not noted", exc_info=True)
    return dict(_noted)


def _note_all() -> None:
    handled = _handled()
    if handled is None or not hasattr(os, "memfd_create"):
        return
    for name in _NAMES:
        number = signal.Signals[name]
        if name in _noted or number in handled or signal.getsignal(number) is not signal.SIG_DFL:
            continue
        descriptor = os.memfd_create(f"sparsity-monitor {name}")
        faulthandler.register(number, descriptor, all_threads=False, chain=True)
        _noted[name] = descriptor


def killed_by(descriptors: Mapping[str, int]) -> str | None:
    """Return the name of the signal that was noted, None if none was."""
    return next((name for name, descriptor in descriptors.items() if os.fstat(descriptor).st_size), None)


def as_arguments(descriptors: Mapping[str, int]) -> list[str]:
    """Return the descriptors as arguments of a command, for `from_arguments`.

    >>> from_arguments(as_arguments({"SIGTERM": 7, "SIGHUP": 9}))
    {'SIGTERM': 7, 'SIGHUP': 9}
    """
    return [f"{name}={descriptor}" for name, descriptor in descriptors.items()]


def from_arguments(arguments: Sequence[str]) -> dict[str, int]:
    """Return name → descriptor."""
    pairs = (argument.split("=") for argument in arguments)
    return {name: int(descriptor) for name, descriptor in pairs}


def _handled() -> set[int] | None:
    """Return the signals that are handled or ignored, by whatever library; None where the kernel does not say.

    Not on macOS, nor in gVisor, the sandbox of some clouds.
    """
    if not _STATUS.exists():
        return None
    masks = dict(line.split(":\t", 1) for line in _STATUS.read_text().splitlines() if line.startswith("Sig"))
    if not {"SigCgt", "SigIgn"} <= set(masks):
        return None
    mask = int(masks["SigCgt"], 16) | int(masks["SigIgn"], 16)
    return {number for number in range(1, 65) if mask >> (number - 1) & 1}


def _hold_back() -> None:
    # A child that is killed before it has forgotten would note that for its parent.
    if _noted:
        _fork.mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.Signals[name] for name in list(_noted)])


def _let_through() -> None:
    if (mask := _fork.__dict__.pop("mask", None)) is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _forget_in_child() -> None:
    # What kills a forked child, such as a DataLoader's worker, has not killed the training.
    for name in _noted:
        number = signal.Signals[name]
        if signal.getsignal(number) is signal.SIG_DFL:
            faulthandler.unregister(number)
    _noted.clear()
    _let_through()


# Of the thread that forks.
_fork = threading.local()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_hold_back, after_in_parent=_let_through, after_in_child=_forget_in_child)
