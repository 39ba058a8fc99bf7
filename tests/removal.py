"""A directory goes while others write to it."""

from __future__ import annotations

import shutil
from pathlib import Path


def remove_in_use(directory: Path) -> None:
    """Remove a directory that a thread or a process may write to meanwhile: what it adds would be in the way."""
    shutil.rmtree(directory.rename(directory.with_name(f"{directory.name} is removed")))
