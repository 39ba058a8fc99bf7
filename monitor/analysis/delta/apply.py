"""Make the fine-tuned checkpoint again, of its base and a delta."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from monitor.analysis.delta.ahead import in_order, update_all
from monitor.analysis.delta.blocks import BLOCK_VALUES, Bits, Block, decode
from monitor.analysis.delta.container import DeltaFile
from monitor.analysis.delta.dtypes import converted
from monitor.analysis.delta.incomplete import check_new, whole_directory
from monitor.analysis.delta.layout import dtype_name
from monitor.analysis.delta.manifest import CarriedFile, Shard, Source, Tensor
from monitor.analysis.delta.sides import Checkpoint
from monitor.analysis.delta.spans import filled, read_bits, read_source, spans
from monitor.analysis.stored import StoredTensor
from monitor.errors import BaseMismatchError, DeltaError, shown

Progress = Callable[[int], None]
"""Called with the bytes of weights that were done since the last time."""


def check_base(base: Checkpoint, delta: DeltaFile, pool: ThreadPoolExecutor, progress: Progress) -> None:
    """Compare all that a delta takes from its base with the checksums of the base that it was made from.

    Raises:
        BaseMismatchError: it is another base.
        CheckpointError: the base cannot be read.
    """
    sources = {
        tensor.source.name: tensor.source
        for tensor in delta.manifest.tensors
        if tensor.source is not None and tensor.source.of == "base"
    }
    for source in sources.values():
        found = base.files.tensors.get(source.name)
        if found is None:
            raise BaseMismatchError(_another_base(base, delta, f"it has no {source.name}"))
        if (found.count, dtype_name(source.name, found)) != (source.count, source.dtype):
            wanted = f"{list(source.shape)} in {source.dtype}"
            raise BaseMismatchError(_another_base(base, delta, f"it has {source.name}, but not {wanted}"))
    # One thread for each: a checksum has to go through its tensor in order.
    work = partial(_check_source, base, progress)
    for source, same in in_order(pool, work, sources.values()):
        if not same:
            raise BaseMismatchError(_another_base(base, delta, f"different is {source.name}, and maybe more"))


def _check_source(base: Checkpoint, progress: Progress, source: Source) -> tuple[Source, bool]:
    digest = hashlib.sha256()
    tensor = base.files.tensors[source.name]
    for first, last in spans(tensor.count, BLOCK_VALUES):
        bits = read_bits(tensor, first, last)
        digest.update(bits.data)
        progress(bits.nbytes)
    return source, digest.hexdigest() == source.sha256


def _another_base(base: Checkpoint, delta: DeltaFile, why: str) -> str:
    return (
        f"{str(delta.path)!r} was made from the base {delta.manifest.base.source!r}, and {base.name!r} has other "
        f"weights: {why}. Nothing was written; give the base that the delta was made from."
    )


def check_target(delta: DeltaFile, target: Path) -> None:
    """Accept where to write: there is nothing yet, and space enough.

    Raises:
        DeltaError: it cannot be written there.
    """
    check_new(target)
    place = next(path for path in (target.absolute(), *target.absolute().parents) if path.is_dir())
    if not os.access(place, os.W_OK):
        raise DeltaError(f"cannot write {str(target)!r}: {str(place)!r} cannot be written to. Give another place.")
    free, needed = shutil.disk_usage(place).free, delta.manifest.written_size
    if free < needed:
        raise DeltaError(
            f"there is no space for {str(target)!r}: {needed:,} bytes are needed, and {free:,} are free. Nothing was "
            "written; make room, or give another place."
        )


def apply_delta(base: Checkpoint, delta: DeltaFile, target: Path, pool: ThreadPoolExecutor, progress: Progress) -> None:
    """Write the fine-tuned checkpoint; base and delta have been checked.

    Args:
        base: what the delta was made from.
        delta: the difference.
        target: a directory that does not exist, or is empty; it is there once it is complete.
        pool: threads to work on.
        progress: is told of bytes of the fine-tuned checkpoint.

    Raises:
        DeltaError: it cannot be written, or does not come out as it was.
        CheckpointError: the base cannot be read.
    """
    with whole_directory(target) as directory:
        applying = _Applying(base, delta, pool, progress)
        for file in delta.manifest.files:
            applying.write_file(file, directory / file.path)
        for shard, tensors in delta.manifest.by_shard():
            applying.write_shard(shard, tensors, directory / shard.path)


class _Task(NamedTuple):
    """A block to be made, and where its frame is."""

    span: tuple[int, int]
    block: Block
    start: int


@dataclass
class _Applying:
    base: Checkpoint
    delta: DeltaFile
    pool: ThreadPoolExecutor
    progress: Progress

    def __post_init__(self) -> None:
        self._by_name = {tensor.name: tensor for tensor in self.delta.manifest.tensors}

    def write_file(self, file: CarriedFile, path: Path) -> None:
        raw = self.delta.content(file.frame)
        if hashlib.sha256(raw).hexdigest() != file.sha256:
            raise DeltaError(_not_as_it_was(file.path, self.delta))
        path.parent.mkdir(parents=True, exist_ok=True)
        with _synced(path) as out:
            out.write(raw)

    def write_shard(self, shard: Shard, tensors: tuple[Tensor, ...], path: Path) -> None:
        whole = hashlib.sha256()
        header = self.delta.content(shard.header)
        with _synced(path) as out:
            out.write(header)
            whole.update(header)
            for tensor in tensors:
                self._write_tensor(tensor, out, whole)
        if whole.hexdigest() != shard.sha256:
            raise DeltaError(_not_as_it_was(shard.path, self.delta))

    def _write_tensor(self, tensor: Tensor, out: BinaryIO, whole: Any) -> None:
        digest = hashlib.sha256()
        for bits in self._bits(tensor):
            update_all(self.pool, [(digest, bits.data), (whole, bits.data)])
            out.write(bits.data)
            self.progress(bits.nbytes)
        if digest.hexdigest() != tensor.sha256:
            raise DeltaError(_not_as_it_was(tensor.name, self.delta))

    def _bits(self, tensor: Tensor) -> Iterator[Bits]:
        source = tensor.source
        if source is not None and source.of == "finetuned":
            return self._bits(self._by_name[source.name])
        old = None if source is None else self.base.files.tensors[source.name]
        return in_order(
            self.pool, partial(self._decoded, tensor, old), _tasks(tensor, self.delta.manifest.block_values)
        )

    def _decoded(self, tensor: Tensor, old: StoredTensor | None, task: _Task) -> Bits:
        first, last = task.span
        source = np.zeros(last - first, f"<u{tensor.width}")
        if old is not None and tensor.source is not None:
            found = converted(read_source(old, first, last), tensor.source.dtype, tensor.dtype)
            source = filled(found, last - first)
        return decode(task.block, self.delta.frame(task.start, task.block.length), source)


def _tasks(tensor: Tensor, block_values: int) -> Iterator[_Task]:
    start = tensor.start
    blocks = tensor.blocks or [_SAME] * -(-tensor.count // block_values)
    for span, block in zip(spans(tensor.count, block_values), blocks, strict=True):
        yield _Task(span, block, start)
        start += block.length


_SAME = Block("same", 0, 0, 0)


@contextmanager
def _synced(path: Path) -> Iterator[BinaryIO]:
    with path.open("xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _not_as_it_was(what: str, delta: DeltaFile) -> str:
    return (
        f"{shown(what)} does not come out with the checksum that {str(delta.path)!r} has for it. Nothing was left "
        "there; check the disks, and make the delta again."
    )
