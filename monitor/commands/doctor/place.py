"""Where a training keeps what it observes until the service has it: its output directory, and the spool in there."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from monitor.commands.doctor.finding import Finding
from monitor.errors import DamagedSpoolError, SpoolError
from monitor.report.log.shell import push_command
from monitor.report.spool.attempt import SpooledAttempt
from monitor.report.spool.items import DEFAULT_MAX_BYTES, Spool
from monitor.report.spool.places import find_spool, linked_spools

_MIB = 1024 * 1024
_OTHER_USER = "Make it readable and writable for the user of the training, or give the training another one."


def place(directory: Path, target: str) -> Iterator[Finding]:
    """Look at an output directory and at the spool in it."""
    there = next((each for each in (directory, *directory.absolute().parents) if os.path.exists(each)), directory)
    yield _writable(directory, there)
    yield _space(there)
    try:
        spool = find_spool(directory)
    except SpoolError:
        yield Finding("spool", "ok", "none here: no training has reported from this directory yet")
        return
    except OSError as error:
        yield Finding("spool", "fail", f"{directory} cannot be read: {error.strerror or error}", _OTHER_USER)
        return
    for each in (*linked_spools(spool), spool):
        yield from _spool(each, directory, target)


def _writable(directory: Path, there: Path) -> Finding:
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"\0")
    except OSError as error:
        return Finding("directory", "fail", f"{there} cannot be written: {error.strerror or error}", _OTHER_USER)
    if there != directory:
        return Finding("directory", "ok", f"{directory} is not there yet, and can be made in {there}")
    return Finding("directory", "ok", f"{directory} can be written")


def _space(there: Path) -> Finding:
    free = shutil.disk_usage(there).free
    found = f"{free // _MIB:,} MiB are free"
    if free >= DEFAULT_MAX_BYTES:
        return Finding("disk", "ok", found)
    needed = f"While the service is away, the spool takes up to {DEFAULT_MAX_BYTES // _MIB} MiB: free some space."
    return Finding("disk", "warn" if free >= _MIB else "fail", found, needed)


def _spool(spool_directory: Path, directory: Path, target: str) -> Iterator[Finding]:
    try:
        with closing(Spool(spool_directory, read_only=True)) as spool:
            spool.check_sound()
            attempts = spool.attempts()
    except DamagedSpoolError as error:
        to_do = "The next training there sets the file aside. What it holds is not delivered: it may be wrong."
        yield Finding("spool", "fail", str(error), to_do)
        return
    except SpoolError as error:
        to_do = f"Make {spool_directory} readable for this user; after a training that was killed, push it first."
        yield Finding("spool", "fail", str(error), to_do)
        return
    findings = [finding for attempt in attempts for finding in _attempt(attempt, directory, target)]
    several = "1 attempt, delivered" if len(attempts) == 1 else f"{len(attempts)} attempts, all of them delivered"
    yield from findings or [Finding("spool", "ok", several)]


def _attempt(attempt: SpooledAttempt, directory: Path, target: str) -> Iterator[Finding]:
    who = f"attempt {attempt.key.attempt} of {attempt.key.run_id}"
    push = push_command(directory, target)
    if attempt.refused:
        found = f"{who} was refused for good, {_items(attempt.unsent)} not delivered: {attempt.problem}"
        yield Finding("spool", "fail", found, f"Once that is changed, and the training has ended: {push}")
    elif attempt.unsent:
        problem = f", the last time because {attempt.problem}" if attempt.problem else ""
        found = f"{_items(attempt.unsent)} of {who} not delivered{problem}"
        yield Finding("spool", "warn", found, f"When the training has ended: {push}")
    if attempt.dropped:
        refused = f", {attempt.rejected} of them refused: {attempt.rejection}" if attempt.rejected else ""
        yield Finding(
            "spool",
            "warn",
            f"{_items(attempt.dropped)} of {who} lost to the service{refused}",
            "They do not come back: the spool was full or damaged, the disk too slow or away, or the service refused "
            "them. The run's own log says which.",
        )


def _items(count: int) -> str:
    return "1 item" if count == 1 else f"{count:,} items"
