"""File systems that a test mounts: small ones, and ones that cannot be written."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def _mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")


def unmount(directory: Path) -> None:
    """Take a file system away from its directory, also while files on it are open."""
    subprocess.run(["umount", "--lazy", str(directory)], check=True)


@contextmanager
def small_disk(directory: Path, size: str = "300k") -> Iterator[Path]:
    """A file system in memory, of a few pages."""
    directory.mkdir()
    _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(directory))
    try:
        yield directory
    finally:
        unmount(directory)


def mount(source: Path, directory: Path) -> None:
    """Mount what is in one directory over another."""
    _mount("--bind", str(source), str(directory))


@contextmanager
def mounted(source: Path, directory: Path) -> Iterator[None]:
    """What is in one directory, mounted over another."""
    mount(source, directory)
    try:
        yield
    finally:
        unmount(directory)


@contextmanager
def read_only(directory: Path) -> Iterator[Path]:
    """A directory that nobody can write to, the superuser neither; it is made if it is not there."""
    directory.mkdir(exist_ok=True)
    with mounted(directory, directory):
        _mount("-o", "remount,ro,bind", str(directory))
        yield directory


def fill(directory: Path) -> None:
    """Leave no room on the disk of a directory."""
    with (directory / "filling").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


def empty(directory: Path) -> None:
    """Give the room back that `fill` took."""
    (directory / "filling").unlink()
