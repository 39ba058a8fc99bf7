"""What is being written has another name until it is complete: a file or directory is there as a whole, or not at all.

Only SIGKILL or a power cut leaves something, under a name that says what it is; whoever writes to the same place next
removes it.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from monitor.errors import DeltaError
from monitor.posix import fcntl

SUFFIX = ".sparsity-monitor.incomplete"


@contextmanager
def whole_file(target: Path) -> Iterator[BinaryIO]:
    """Open a file that has its name once the `with` statement ends without an exception.

    Raises:
        DeltaError: it cannot be written, or another process is writing it.
    """
    # A path such as "." has no name of its own.
    target = Path(os.path.abspath(target))
    with _in_words(target):
        partial = _free(target)
        with partial.open("xb") as file, _claimed(file.fileno(), partial):
            yield file
            file.flush()
            os.fsync(file.fileno())
            partial.replace(target)
            _sync(target.parent)


@contextmanager
def whole_directory(target: Path) -> Iterator[Path]:
    """Make a directory that has its name once the `with` statement ends without an exception.

    Files in it are to be synced by whoever writes them.

    Raises:
        DeltaError: it cannot be made, is there already and not empty, or another process is making it.
    """
    check_new(target)
    # A path such as "." has no name of its own.
    target = Path(os.path.abspath(target))
    with _in_words(target):
        partial = _free(target)
        partial.mkdir()
        descriptor = os.open(partial, os.O_RDONLY)
        try:
            with _claimed(descriptor, partial):
                yield partial
                for below, _, _ in os.walk(partial):
                    _sync(Path(below))
                partial.replace(target)
                _sync(target.parent)
        finally:
            os.close(descriptor)


def check_new(target: Path) -> None:
    """Accept where a directory is to be made: there is nothing, or an empty one.

    Raises:
        DeltaError: there is something.
    """
    with _in_words(target):
        if target.is_symlink() or target.is_file() or (target.is_dir() and any(target.iterdir())):
            raise DeltaError(f"{str(target)!r} is there already, and is kept as it is. Give a directory that is new.")


def _free(target: Path) -> Path:
    """Return where to write, made free of what a killed process left there."""
    partial = target.with_name(target.name + SUFFIX)
    target.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        descriptor = os.open(partial, os.O_RDONLY)
        try:
            _claim(descriptor, partial)
            _remove(partial)
        finally:
            os.close(descriptor)
    return partial


@contextmanager
def _claimed(descriptor: int, partial: Path) -> Iterator[None]:
    """Hold what is being written for this process, and remove it if it does not become complete."""
    _claim(descriptor, partial)
    if not os.path.samestat(os.fstat(descriptor), partial.stat()):
        raise _held(partial)
    try:
        yield
    except BaseException:
        _remove(partial)
        raise


def _claim(descriptor: int, partial: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise _held(partial) from error
        # Some network file systems have no locks: there, two at once are not told apart.


def _held(partial: Path) -> DeltaError:
    return DeltaError(f"another process is writing {str(partial)!r} at this moment. Wait for it, or give another name.")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _in_words(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DeltaError(
                f"there is no space for {str(target)!r}, and nothing was left there. Make room, or give another place."
            ) from error
        raise DeltaError(f"cannot write {str(target)!r}: {error.strerror or error}.") from error
