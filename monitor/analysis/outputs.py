"""Where results are written: looked at before the work, not after it."""

from __future__ import annotations

import os
from pathlib import Path

from monitor.errors import ConfigurationError


def check_writable(what: str, path: Path) -> None:
    """Accept a file that can be written, whether it is there or not.

    Args:
        what: what it was given as, such as "--output".
        path: the file.

    Raises:
        ConfigurationError: it is a directory, or in none that can be written to.
    """
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise ConfigurationError(
            f"{what} is {str(path)!r}, which cannot be written; expected a file in a directory that is there and can "
            "be written to."
        )
