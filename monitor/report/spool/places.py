"""Where a run's spool is: in its output directory; when that breaks in a temporary folder, to which a link leads."""

from __future__ import annotations

import hashlib
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from monitor.errors import SpoolError
from monitor.report.spool.attempt import AttemptKey
from monitor.report.spool.file import SPOOL_FILE

# The monitor's directory in a run's output directory, and in each checkpoint.
DIRECTORY = "sparsity_monitor"
# In the former, the update mask of the latest run.
MASK_FILE = "update_mask.safetensors"

# A file system in memory, on Linux: there is room where every disk is full.
_IN_MEMORY = "/dev/shm"
_PREFIX = "sparsity-monitor-"
_LINK = "goes-on-"


def find_spool(directory: Path) -> Path:
    """Return the directory of the spool.

    Args:
        directory: the run's output directory, or the spool's own.

    Raises:
        SpoolError: there is none.
    """
    # The last one is where SparsityCallback keeps the spool if the output directory is pushed to a hub.
    for candidate in (directory, directory / DIRECTORY, directory / f"_{DIRECTORY}"):
        if (candidate / SPOOL_FILE).is_file():
            return candidate
    raise SpoolError(
        f"there is no {SPOOL_FILE} in {str(directory)!r} or its {DIRECTORY}. Give the output directory of a "
        "training that ran with SparsityCallback."
    )


class Elsewhere:
    """The temporary folders of one run, each made when it is first asked for, by whichever thread."""

    def __init__(self) -> None:
        self._made: dict[str, Path] = {}
        self._lock = threading.Lock()

    def folders(self) -> Iterator[Path]:
        """Return a folder for each place that takes temporary files, the usual one first."""
        for parent in dict.fromkeys([*_usual(), _IN_MEMORY]):
            with suppress(OSError):
                yield self._in(parent)

    def _in(self, parent: str) -> Path:
        with self._lock:
            if parent not in self._made:
                self._made[parent] = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
            return self._made[parent]

    def clear(self) -> None:
        """Remove those in which nothing was left."""
        for folder in list(self._made.values()):
            with suppress(OSError):
                folder.rmdir()


def _usual() -> list[str]:
    try:
        return [tempfile.gettempdir()]
    except OSError:
        # Raised where no directory takes a file.
        return []


def leave_link(directory: Path, key: AttemptKey, folder: Path) -> None:
    """Leave a link in a spool's directory to where the attempt goes on, as far as anything can be left there.

    A link takes no block of a disk that is full.
    """
    with suppress(OSError):
        _link(directory, key).symlink_to(folder)


def goes_on_elsewhere(directory: Path, key: AttemptKey) -> bool:
    """Return whether the attempt left the directory, so that its end is not told from what is there."""
    return _link(directory, key).is_symlink()


def linked_spools(directory: Path) -> list[Path]:
    """Return the directories with a spool that links in this one lead to."""
    return [link.readlink() for link in sorted(directory.glob(f"{_LINK}*")) if (link / SPOOL_FILE).is_file()]


def _link(directory: Path, key: AttemptKey) -> Path:
    # Not the run id itself: a name may have 255 bytes.
    digest = hashlib.sha256(f"{key.attempt} {key.run_id}".encode()).hexdigest()[:16]
    return directory / f"{_LINK}{digest}"
