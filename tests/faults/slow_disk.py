"""A disk of its own that can be made slow: a file with ext4 on it, whose writes the kernel lets through a few a second.

By the block device's limit of control groups (version 1), for all processes: a disk that is slow is so for everybody.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.mounts import unmount

_LIMIT = Path("/sys/fs/cgroup/blkio/blkio.throttle.write_iops_device")


class SlowDisk:
    """Mounted at `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        device = os.stat(directory).st_dev
        self._device = f"{os.major(device)}:{os.minor(device)}"

    @contextmanager
    def slow(self, writes: int) -> Iterator[None]:
        """Let so many writes through in a second; a commit takes about ten."""
        self._limit(writes)
        try:
            yield
        finally:
            self._limit(0)

    def _limit(self, writes: int) -> None:
        _LIMIT.write_text(f"{self._device} {writes}\n")


@contextmanager
def slow_disk(directory: Path) -> Iterator[SlowDisk]:
    """Make one, or skip the test where that is not allowed."""
    if not os.access(_LIMIT, os.W_OK) or shutil.which("mkfs.ext4") is None:
        pytest.skip("no disk can be made slow here: it takes the superuser, mkfs.ext4 and blkio of cgroups, version 1")
    directory.mkdir()
    image = directory.with_suffix(".image")
    with image.open("wb") as file:
        file.truncate(64 * 2**20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True, timeout=60)
    mounted = subprocess.run(
        ["mount", "-o", "loop", str(image), str(directory)], capture_output=True, text=True, check=False, timeout=60
    )
    if mounted.returncode:
        pytest.skip(f"no disk can be made here: {mounted.stderr.strip()}")
    try:
        yield SlowDisk(directory)
    finally:
        unmount(directory)
