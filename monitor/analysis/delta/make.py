"""Describe a fine-tuned checkpoint by what differs from its base, block by block."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from monitor.analysis.delta.ahead import in_order, update_all, worker_threads
from monitor.analysis.delta.blocks import BLOCK_VALUES, Bits, Block, decode, encode
from monitor.analysis.delta.carried import NOTHING, Found, content_of, encodable, find_files
from monitor.analysis.delta.container import DeltaWriter, Mark
from monitor.analysis.delta.dtypes import comparable, converted
from monitor.analysis.delta.incomplete import whole_file
from monitor.analysis.delta.layout import INDEX, Layout, PlannedShard, dtype_name, layout_of
from monitor.analysis.delta.manifest import (
    CarriedFile,
    Manifest,
    Shard,
    Side,
    Source,
    Tensor,
    base_checksum,
    checksum,
)
from monitor.analysis.delta.sides import Checkpoint
from monitor.analysis.delta.spans import filled, read_bits, read_source, spans, width_of
from monitor.analysis.stored import StoredTensor
from monitor.errors import DeltaError, shown

Progress = Callable[[int], None]
"""Called with the bytes of weights that were done since the last time."""


def make_delta(base: Checkpoint, finetuned: Checkpoint, target: Path, progress: Progress) -> Manifest:
    """Write the delta that leads from one checkpoint to the other, and return what it says.

    Args:
        base: what the delta will be applied to.
        finetuned: what will come out.
        target: the file; it is there once it is complete.
        progress: is told of bytes of the fine-tuned checkpoint.

    Raises:
        CheckpointError: a checkpoint cannot be read.
        DeltaError: the two have nothing in common, or the file cannot be written.
    """
    if not set(base.files.tensors) & set(finetuned.files.tensors):
        raise DeltaError(
            f"{base.name!r} and {finetuned.name!r} have no tensor of the same name: nothing of the one would be used "
            "for the other. Give the checkpoint that the fine-tuning began from, saved in the same way."
        )
    for name in finetuned.files.tensors:
        if name != encodable(name):
            raise DeltaError(f"{finetuned.name!r} has a tensor with the name {shown(name)}, which is no valid Unicode.")
    directory = finetuned.directory()
    layout = layout_of(finetuned.files, directory)
    weights = frozenset(tensor.file.path for tensor in finetuned.files.tensors.values())
    beside = NOTHING if directory is None else find_files(directory, weights=weights, target=target)
    with whole_file(target) as file, worker_threads() as pool:
        writer = DeltaWriter(file)
        manifest = _Making(base, finetuned, layout, beside, writer, pool, progress).manifest()
        writer.finish(manifest)
    return manifest


@dataclass
class _Making:
    base: Checkpoint
    finetuned: Checkpoint
    layout: Layout
    beside: Found
    writer: DeltaWriter
    pool: ThreadPoolExecutor
    progress: Progress
    # (SHA-256, dtype) → the first tensor with these bytes.
    seen: dict[tuple[str, str], Tensor] = field(default_factory=dict)

    def manifest(self) -> Manifest:
        files = [self._carried(name, content) for name, content in self._contents()]
        shards, tensors = [], []
        for shard in self.layout.shards:
            described, its_tensors = self._shard(shard)
            shards.append(described)
            tensors += its_tensors
        old, new = self.base.files.tensors, self.finetuned.files.tensors
        common = [name for name in new if name in old]
        return Manifest(
            base=Side(source=self.base.name, checksum=base_checksum(tensors)),
            finetuned=Side(source=self.finetuned.name, checksum=checksum((each.name, each.sha256) for each in tensors)),
            frames_sha256=self.writer.frames_sha256,
            block_values=BLOCK_VALUES,
            files=tuple(files),
            left_out=self.beside.left_out,
            removed=tuple(name for name in old if name not in new),
            added=tuple(name for name in new if name not in old),
            retyped=tuple(name for name in common if old[name].dtype != new[name].dtype),
            reshaped=tuple(name for name in common if old[name].shape != new[name].shape),
            shards=tuple(shards),
            tensors=tuple(tensors),
        )

    def _contents(self) -> Iterator[tuple[str, bytes]]:
        if self.layout.index is not None:
            yield INDEX, self.layout.index
        yield from ((name, content_of(path)) for name, path in self.beside.carried.items())

    def _carried(self, name: str, content: bytes) -> CarriedFile:
        frame = self.writer.add_compressed(content)
        return CarriedFile(path=name, sha256=hashlib.sha256(content).hexdigest(), frame=frame)

    def _shard(self, shard: PlannedShard) -> tuple[Shard, list[Tensor]]:
        whole = hashlib.sha256(shard.header)
        header = self.writer.add_compressed(shard.header)
        tensors = [self._tensor(name, tensor, whole) for name, tensor in shard.tensors.items()]
        size = len(shard.header) + sum(tensor.size for tensor in tensors)
        described = Shard(
            path=shard.path,
            was=shard.was,
            kept=shard.kept,
            size=size,
            sha256=whole.hexdigest(),
            header=header,
            tensors=len(tensors),
        )
        return described, tensors

    def _tensor(self, name: str, new: StoredTensor, whole: Any) -> Tensor:
        old = self.base.files.tensors.get(name)
        if old is not None and not comparable(dtype_name(name, old), dtype_name(name, new)):
            old = None
        mark = self.writer.mark()
        before, after = hashlib.sha256(), hashlib.sha256()
        blocks = []
        encoded = in_order(self.pool, partial(_encoded, old, new), spans(new.count, BLOCK_VALUES))
        for each in encoded:
            updates = [(after, each.new.data), (whole, each.new.data)]
            update_all(self.pool, updates if each.old is None else [*updates, (before, each.old.data)])
            self.writer.add(each.frame)
            blocks.append(each.block)
            self.progress(each.new.nbytes)
        source = None if old is None else _source(name, old, new.count, before)
        described = Tensor(
            name=name,
            dtype=dtype_name(name, new),
            shape=new.shape,
            width=width_of(new),
            sha256=after.hexdigest(),
            changed=sum(block.changed for block in blocks),
            source=source,
            start=mark.position,
            blocks=tuple(blocks),
        )
        return self._shortest(described, mark)

    def _shortest(self, described: Tensor, mark: Mark) -> Tensor:
        """Return a tensor as what it is the same as, if it is; its frames are taken back then."""
        source = described.source
        if source is not None and source.count == described.count and not described.changed:
            return described.model_copy(update={"blocks": ()})
        same = self.seen.setdefault((described.sha256, described.dtype), described)
        if same is described:
            return described
        self.writer.go_back(mark)
        source = Source(of="finetuned", name=same.name, sha256=same.sha256, dtype=same.dtype, shape=same.shape)
        return described.model_copy(update={"source": source, "blocks": (), "start": mark.position})


class _Encoded(NamedTuple):
    old: Bits | None
    new: Bits
    block: Block
    frame: bytes


def _encoded(old: StoredTensor | None, new: StoredTensor, span: tuple[int, int]) -> _Encoded:
    bits = read_bits(new, *span)
    found, source = None, np.zeros_like(bits)
    if old is not None:
        found = read_source(old, *span)
        source = filled(converted(found, *(dtype_name("", each) for each in (old, new))), len(bits))
    block, frame = encode(None if old is None else source, bits)
    # Whoever has the delta may not keep the checkpoint.
    if not np.array_equal(decode(block, frame, source), bits):
        raise DeltaError("a block could not be read again as it was. Check the memory of this machine.")
    return _Encoded(found, bits, block, frame)


def _source(name: str, old: StoredTensor, described: int, digest: Any) -> Source:
    # What the described tensor is too short for.
    for span in spans(max(0, old.count - described), BLOCK_VALUES):
        digest.update(read_bits(old, described + span[0], described + span[1]).data)
    dtype = dtype_name(name, old)
    return Source(of="base", name=name, sha256=digest.hexdigest(), dtype=dtype, shape=old.shape)
