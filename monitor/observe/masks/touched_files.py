"""Touched weights beside a checkpoint: each process writes its own shards, and any number of processes reads them."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from monitor.errors import MaskFileError
from monitor.observe.bits import pack, unpack
from monitor.observe.masks.file import MaskFile, write_mask
from monitor.observe.ranks import Ranks
from monitor.observe.weights.shard import Shard

logger = logging.getLogger(__name__)

_PREFIX = "touched_mask"


def write_shards(
    directory: Path,
    ranks: Ranks,
    words: Mapping[str, torch.Tensor],
    shards: Sequence[Shard],
    metadata: Mapping[str, object],
) -> None:
    """Write the masks of what this process measures, if there is a checkpoint that they belong to.

    A hyperparameter search saves elsewhere, and a directory that is made here would be taken for its checkpoint.

    Args:
        directory: in the checkpoint; the same for all processes, which all must call this; on one file system, if
            another number of processes is to read them.
        words: parameter name → int32 words of its shard.
        shards: what this process measures.
        metadata: as for `write_mask`; "step" and "base_fingerprint" are compared when the shards are read.
    """
    # The first process says: it has saved the checkpoint, and the others may not see it yet, or on no file system.
    saved = torch.tensor([int(ranks.rank == 0 and directory.parent.is_dir())], device="cpu")
    if not int(ranks.sum(saved)):
        return
    held = {shard.name: shard for shard in shards if shard.count}

    def write() -> None:
        if ranks.rank == 0:
            # Of a training that was here before, on another number of processes.
            for other in set(directory.glob(f"{_PREFIX}-*")) - set(_files(directory, ranks.world)):
                other.unlink()
        write_mask(
            _files(directory, ranks.world)[ranks.rank],
            (words[name] for name in held),
            {name: (shard.count,) for name, shard in held.items()},
            {**metadata, "parts": json.dumps({name: _as_json(shard) for name, shard in held.items()})},
        )

    # Where one disk is full, all go on from here alike: the next collective is for the same thing on each of them.
    ranks.all_or_none(write)


def read_shards(
    directory: Path, ranks: Ranks, shards: Sequence[Shard], metadata: Mapping[str, object]
) -> dict[str, torch.Tensor] | None:
    """Return the words of each shard, int32, out of what any number of processes wrote.

    What nobody measured when they were written has zeros. None if they are not there, or of another step or base.
    """
    held = [shard for shard in shards if shard.count]
    try:
        with ExitStack() as opened:
            own = _open(_files(directory, ranks.world)[ranks.rank], metadata, opened)
            if own is not None and all(own.shards.get(shard.name) == _as_json(shard) for shard in held):
                return {shard.name: own.read(shard.name) for shard in held}
            files = _open_all(directory, metadata, opened)
            return None if files is None else {shard.name: _gather(shard, files) for shard in held}
    except MaskFileError as error:
        logger.warning("sparsity-monitor: %s", error)
        return None


class _ShardFile(MaskFile):
    """What one process wrote."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.shards: dict[str, dict[str, Any]] = json.loads(self.fields["parts"])

    def put_into_whole(self, name: str, whole: torch.Tensor) -> None:
        """Set the ones that this file has of a parameter, in a boolean tensor of the parameter's shape."""
        if name not in self.shards:
            return
        fields = self.shards[name]
        bounds = tuple((first, last) for first, last in fields["box"])
        shard = Shard(name, tuple(fields["shape"]), bounds, fields["start"], fields["stop"])
        if shard.shape == whole.shape:
            shard.put_into_whole(unpack(self.read(name), shard.count), whole)


def _files(directory: Path, world: int) -> list[Path]:
    return [directory / f"{_PREFIX}-{rank:05d}-of-{world:05d}.safetensors" for rank in range(world)]


def _open_all(directory: Path, metadata: Mapping[str, object], opened: ExitStack) -> list[_ShardFile] | None:
    found = next(iter(sorted(directory.glob(f"{_PREFIX}-*-of-*.safetensors"))), None)
    if found is None:
        return None
    world = int(found.stem.rpartition("-")[2])
    files = [_open(path, metadata, opened) for path in _files(directory, world)]
    there = [file for file in files if file is not None]
    return there if len(there) == world else None


def _open(path: Path, metadata: Mapping[str, object], opened: ExitStack) -> _ShardFile | None:
    if not path.exists():
        return None
    file = opened.enter_context(_ShardFile(path))
    same = all(file.fields[key] == str(metadata[key]) for key in ("step", "base_fingerprint"))
    return file if same else None


def _gather(shard: Shard, files: Sequence[_ShardFile]) -> torch.Tensor:
    whole = torch.zeros(shard.shape, dtype=torch.bool, device="cpu")
    for file in files:
        file.put_into_whole(shard.name, whole)
    return pack(shard.of_whole(whole))


def _as_json(shard: Shard) -> dict[str, Any]:
    # Under the names that checkpoints of earlier versions have, too, here and for "parts" above.
    box = [list(bounds) for bounds in shard.bounds]
    return {"shape": list(shard.shape), "box": box, "start": shard.start, "stop": shard.stop}
