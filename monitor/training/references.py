"""The reference masks that a user gives, by name: masks, or their files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from monitor.errors import ConfigurationError, shown
from monitor.observe.masks.file import MaskFile
from monitor.observe.masks.mask import UpdateMask
from monitor.observe.masks.references import ReferenceMask

References = Mapping[str, UpdateMask | MaskFile | str | Path]


def check_references(given: object) -> References:
    """Return reference masks by name.

    Raises:
        ConfigurationError: they have no names, or one is neither a mask nor a path.
    """
    if not isinstance(given, Mapping):
        raise ConfigurationError(f"references is {shown(given)}; expected {{name: mask file or UpdateMask}}.")
    for name, mask in given.items():
        if not isinstance(name, str) or not name:
            raise ConfigurationError(
                f"references has the name {shown(name)}; expected a text for metrics to be labelled with."
            )
        if not isinstance(mask, UpdateMask | MaskFile | str | Path):
            raise ConfigurationError(
                f"references[{name!r}] is {shown(mask)}; expected an UpdateMask or the path of its file."
            )
    return dict(given)


def open_references(given: References) -> dict[str, ReferenceMask]:
    """Open the masks that are files. Of their weights' bits, each process reads its share when training starts.

    Raises:
        MaskFileError: a file cannot be read.
    """
    return {name: MaskFile(mask) if isinstance(mask, str | Path) else mask for name, mask in given.items()}
