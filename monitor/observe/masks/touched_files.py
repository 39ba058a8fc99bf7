"""Touched weights beside a checkpoint: each process writes its own part, and any number of processes reads them."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from monitor.errors import MaskFileError
from monitor.observe.kernels.reference import pack, unpack
from monitor.observe.masks.file import MaskFile, write_mask
from monitor.observe.ranks import Alone
from monitor.observe.weights.shard import Part

logger = logging.getLogger(__name__)

_PREFIX = "touched_mask"


def write_part(
    directory: Path,
    ranks: Alone,
    words: Mapping[str, torch.Tensor],
    parts: Sequence[Part],
    metadata: Mapping[str, object],
) -> None:
    """Write the masks of what this process measures, if there is a checkpoint that they belong to.

    A hyperparameter search saves elsewhere, and a directory that is made here would be taken for its checkpoint.

    Args:
        directory: in the checkpoint; the same for all processes, which all must call this; on one file system, if
            another number of processes is to read them.
        words: parameter name → int32 words of its part.
        parts: what this process measures.
        metadata: as for `write_mask`; "step" and "base_fingerprint" are compared when the parts are read.
    """
    # The first process says: it has saved the checkpoint, and the others may not see it yet, or on no file system.
    saved = torch.tensor([int(ranks.rank == 0 and directory.parent.is_dir())], device="cpu")
    if not int(ranks.sum(saved)):
        return
    if ranks.rank == 0:
        # Of a training that was here before, on another number of processes.
        for other in set(directory.glob(f"{_PREFIX}-*")) - set(_files(directory, ranks.world)):
            other.unlink()
    held = {part.name: part for part in parts if part.count}
    write_mask(
        _files(directory, ranks.world)[ranks.rank],
        (words[name] for name in held),
        {name: (part.count,) for name, part in held.items()},
        {**metadata, "parts": json.dumps({name: _as_json(part) for name, part in held.items()})},
    )


def read_part(
    directory: Path, ranks: Alone, parts: Sequence[Part], metadata: Mapping[str, object]
) -> dict[str, torch.Tensor] | None:
    """Return the words of each part, int32, out of what any number of processes wrote.

    What nobody measured when they were written has zeros. None if they are not there, or of another step or base.
    """
    held = [part for part in parts if part.count]
    try:
        with ExitStack() as opened:
            own = _open(_files(directory, ranks.world)[ranks.rank], metadata, opened)
            if own is not None and all(own.parts.get(part.name) == _as_json(part) for part in held):
                return {part.name: own.read(part.name) for part in held}
            files = _open_all(directory, metadata, opened)
            return None if files is None else {part.name: _gather(part, files) for part in held}
    except MaskFileError as error:
        logger.warning("sparsity-monitor: %s", error)
        return None


class _PartFile(MaskFile):
    """What one process wrote."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.parts: dict[str, dict[str, Any]] = json.loads(self.fields["parts"])

    def put_into_whole(self, name: str, whole: torch.Tensor) -> None:
        """Set the ones that this file has of a parameter, in a boolean tensor of the parameter's shape."""
        if name not in self.parts:
            return
        fields = self.parts[name]
        box = tuple((first, last) for first, last in fields["box"])
        part = Part(name, tuple(fields["shape"]), box, fields["start"], fields["stop"])
        if part.shape == whole.shape:
            part.put_into_whole(unpack(self.read(name), part.count), whole)


def _files(directory: Path, world: int) -> list[Path]:
    return [directory / f"{_PREFIX}-{rank:05d}-of-{world:05d}.safetensors" for rank in range(world)]


def _open_all(directory: Path, metadata: Mapping[str, object], opened: ExitStack) -> list[_PartFile] | None:
    found = next(iter(sorted(directory.glob(f"{_PREFIX}-*-of-*.safetensors"))), None)
    if found is None:
        return None
    world = int(found.stem.rpartition("-")[2])
    files = [_open(path, metadata, opened) for path in _files(directory, world)]
    there = [file for file in files if file is not None]
    return there if len(there) == world else None


def _open(path: Path, metadata: Mapping[str, object], opened: ExitStack) -> _PartFile | None:
    if not path.exists():
        return None
    file = opened.enter_context(_PartFile(path))
    same = all(file.fields[key] == str(metadata[key]) for key in ("step", "base_fingerprint"))
    return file if same else None


def _gather(part: Part, files: Sequence[_PartFile]) -> torch.Tensor:
    whole = torch.zeros(part.shape, dtype=torch.bool, device="cpu")
    for file in files:
        file.put_into_whole(part.name, whole)
    return pack(part.of_whole(whole))


def _as_json(part: Part) -> dict[str, Any]:
    box = [list(bounds) for bounds in part.box]
    return {"shape": list(part.shape), "box": box, "start": part.start, "stop": part.stop}
