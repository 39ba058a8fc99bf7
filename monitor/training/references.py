"""The reference masks that a user gives, by name: masks, their files, or structural ones that the base makes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from monitor.errors import ConfigurationError, shown
from monitor.observe.masks.file import MaskFile
from monitor.observe.masks.mask import UpdateMask
from monitor.observe.masks.references import ReferenceMask
from monitor.observe.masks.structural import StructuralMask

References = Mapping[str, UpdateMask | MaskFile | str | Path]


def check_references(given: object) -> References:
    """Return reference masks by name.

    Raises:
        ConfigurationError: they have no names, or one is neither a mask nor a path, or of a share that cannot be.
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
                f"references[{name!r}] is {shown(mask)}; expected an UpdateMask or the path of its file, or "
                'a structural mask such as "lowest:0.1".'
            )
        if isinstance(mask, str):
            # Refused here, and not when the training starts.
            StructuralMask.parse(mask)
    return dict(given)


def open_references(given: References) -> dict[str, ReferenceMask | StructuralMask]:
    """Open the masks that are files. Of their weights' bits, each process reads its share when training starts.

    Text such as "lowest:0.1" always is a structural mask; a file of that name is given as "./lowest:0.1".

    Raises:
        MaskFileError: a file cannot be read.
    """
    return {name: _open(mask) for name, mask in given.items()}


def _open(mask: UpdateMask | MaskFile | str | Path) -> ReferenceMask | StructuralMask:
    if isinstance(mask, str) and (structural := StructuralMask.parse(mask)) is not None:
        return structural
    return MaskFile(mask) if isinstance(mask, str | Path) else mask
