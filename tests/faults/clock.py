"""A clock of its own for a process and its children, which can be set while they run; the machine's stays as it is.

By libfaketime, which answers what the processes ask of the system's clock. Time that passes is the machine's.
"""

from __future__ import annotations

import glob
import os
from pathlib import Path

import pytest

_LIBRARY = "/usr/lib/*/faketime/libfaketimeMT.so.1"


class Clock:
    """Right at first.

    Attributes:
        environment: what a process is started with that shall have it.
    """

    def __init__(self, directory: Path) -> None:
        """Make one that is set through a file in `directory`, or skip the test where there is no libfaketime."""
        libraries = glob.glob(_LIBRARY)
        if not libraries:
            pytest.skip("no process can have a clock of its own here: it takes the Debian package faketime")
        self._file = directory / "clock"
        self.set(0)
        self.environment = {
            "LD_PRELOAD": libraries[0],
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            # Seconds after which the file is read again.
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            # The times of files.
            "NO_FAKE_STAT": "1",
        }

    def set(self, ahead: float) -> None:
        """Set it so many seconds ahead of the machine's, minus for behind."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{ahead:+}\n")
        os.replace(new, self._file)
