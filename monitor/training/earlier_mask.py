"""The mask of an earlier run in the same directory, which the mask of this one must not replace."""

from __future__ import annotations

import logging
from pathlib import Path

from monitor.errors import MaskFileError
from monitor.observe.masks.file import MaskFile

logger = logging.getLogger(__name__)

_LONGEST_NAME = 200


def room_for_mask(path: Path, run_id: str) -> Path | None:
    """Return `path` when the mask of a run can be written there, None when it cannot.

    What another run left there is kept under another name, with that run's identity.
    """
    try:
        _move_other(path, run_id)
    except OSError as error:
        logger.warning(
            "sparsity-monitor: the update mask is not written, as it would replace that of another run in %s, which "
            "cannot be moved: %s. Give each run its own output directory.",
            path,
            error,
        )
        return None
    return path


def _move_other(path: Path, run_id: str) -> None:
    if not path.exists():
        return
    try:
        with MaskFile(path) as file:
            other = file.metadata.run_id
    except MaskFileError:
        other = "unknown"
    if other == run_id:
        return
    kept = path.with_name(f"{path.stem}-{_short(other or 'unknown')}{path.suffix}")
    path.replace(kept)
    logger.info("sparsity-monitor: the mask that run %s left in %s is now %s.", other, path.parent, kept.name)


def _short(run_id: str) -> str:
    # A mask of `UpdateObserver` may name a run as no service would take it. A file's name has 255 bytes, on the usual
    # file systems.
    name = "".join("_" if each in "/\0" else each for each in run_id)
    return name.encode(errors="replace")[:_LONGEST_NAME].decode(errors="ignore")
