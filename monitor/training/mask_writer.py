"""Writes the masks of a run: where they belong, or if nothing can be written there, to the run's temporary folders."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

from monitor.observe.comparison import Comparison
from monitor.observe.observer import UpdateObserver
from monitor.report.log.shell import quoted, shown
from monitor.report.spool.places import Elsewhere
from monitor.training.directories import touched_in

logger = logging.getLogger(__name__)

# Where it belongs, on another disk, in memory: as many on every process, for they try together.
_PLACES = 3


class MaskWriter:
    """Writes what an observer has. Every process of a parallel training calls the same methods.

    Args:
        elsewhere: the temporary folders of this process.
    """

    def __init__(self, elsewhere: Elsewhere) -> None:
        self._elsewhere = elsewhere

    def save_update_mask(self, observer: UpdateObserver, path: Path | None, run_id: str, of: Comparison) -> Path | None:
        """Write the mask of weights that were compared, and return where it is; the first process writes.

        Args:
            path: where it belongs, in a directory that is made if the one above is there. None writes nothing.

        Raises:
            OSError: it can be written nowhere.
        """
        first_error: OSError | None = None
        for place in self._places(path, Path(path.name if path else "")):
            error = _cannot_be_made(place)
            try:
                observer.save_update_mask(place if error is None else None, run_id, of)
            except OSError as failure:
                error = failure
            first_error = first_error or error
            if observer.ranks.all_say(error is None):
                if place is not None and first_error is not None:
                    logger.warning(
                        "sparsity-monitor: the update mask cannot be written where it belongs (%s). It is in %s.",
                        first_error,
                        shown(place),
                    )
                return place
        if first_error is not None:
            raise first_error
        return None

    def save_touched(self, observer: UpdateObserver, checkpoint: Path) -> None:
        """Write with a checkpoint which weights were touched so far; every process writes its own.

        Raises:
            OSError, SparsityMonitorError: they can be written nowhere, on this or another process.
        """
        belongs = touched_in(checkpoint)
        first_error: Exception | None = None
        for place in self._places(belongs, Path(checkpoint.name, belongs.name)):
            try:
                if first_error is not None and place is not None:
                    # Nothing is written where there is no checkpoint. No process may leave the others alone here.
                    with suppress(OSError):
                        place.parent.mkdir(exist_ok=True)
                observer.save_touched(belongs if place is None else place)
            # Whatever it is: the others try again, too.
            except Exception as error:  # noqa: BLE001
                first_error = first_error or error
                continue
            if first_error is not None and place is not None and place.is_dir():
                logger.warning(
                    "sparsity-monitor: the touched weights of %s cannot be written beside it (%s). They are in %s. To "
                    "resume from that checkpoint: cp -r %s %s",
                    checkpoint.name,
                    first_error,
                    shown(place),
                    quoted(place),
                    quoted(checkpoint.absolute()),
                )
            return
        if first_error is not None:
            raise first_error

    def _places(self, path: Path | None, below: Path) -> Iterator[Path | None]:
        """Return where to write, one after the other; None where there is no place, or nothing to write."""
        if path is None:
            yield from [None] * _PLACES
            return
        yield path
        folders = [folder / below for folder in islice(self._elsewhere.folders(), _PLACES - 1)]
        yield from folders
        yield from [None] * (_PLACES - 1 - len(folders))


def _cannot_be_made(place: Path | None) -> OSError | None:
    """Return why nothing is to be written there: an output directory that was removed or moved is not made again."""
    if place is None:
        return None
    above = place.parent.parent
    try:
        if above.is_dir():
            return None
    except OSError as error:
        # As of a network file system that is gone. The other processes are on their way to write together.
        return error
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(above))
