"""What a delta says of itself: base, files, shards, tensors, and where their frames are. FORMAT.md has it in words."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from monitor.analysis.delta.blocks import Block, largest_size
from monitor.analysis.delta.carried import LARGEST_FILE, unsafe
from monitor.analysis.delta.dtypes import comparable
from monitor.errors import DeltaError, shown

# The format's own limit.
_LARGEST_HEADER = 100_000_000 + 8

Count = Annotated[int, Field(ge=0, lt=2**63)]
Checksum = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Frame(_Part):
    """Bytes that are one zstandard frame.

    Attributes:
        start: from the beginning of all frames.
        length: in the file.
        size: when decompressed.
    """

    start: Count
    length: Count
    size: Count


class CarriedFile(_Part):
    """A small file of the fine-tuned checkpoint, such as config.json."""

    path: str
    sha256: Checksum
    frame: Frame


class Shard(_Part):
    """A safetensors file to be written.

    Attributes:
        path: its name.
        was: what the file was called that its tensors were in.
        kept: whether it is that file, byte for byte.
        size: bytes of the whole file.
        sha256: of the whole file.
        header: its first bytes, up to the first tensor.
        tensors: how many of the manifest's tensors it has, which follow on those of the shard before.
    """

    path: str
    was: str
    kept: bool
    size: Count
    sha256: Checksum
    header: Frame
    tensors: Count


class Source(_Part):
    """What a tensor is described against.

    Attributes:
        of: "base": a tensor of the base. "finetuned": one that stands earlier in this manifest.
        name: of the tensor.
        sha256: of its bytes.
        dtype: its dtype, which may be another one than that of what is described.
        shape: its shape.
    """

    of: Literal["base", "finetuned"]
    name: str
    sha256: Checksum
    dtype: str
    shape: tuple[Count, ...]

    @property
    def count(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


class Tensor(_Part):
    """A tensor of the fine-tuned checkpoint.

    Attributes:
        name: as in its file.
        dtype: as safetensors calls it.
        shape: its shape.
        width: bytes of a value.
        sha256: of its bytes.
        changed: values whose bits differ from those of the base; all of them if the base has none to compare with.
        source: what it is described against; None if it stands for itself.
        start: of its first frame, from the beginning of all frames; the others follow.
        blocks: none if it is the source.
    """

    name: str
    dtype: str
    shape: tuple[Count, ...]
    width: Literal[1, 2, 4, 8]
    sha256: Checksum
    changed: Count
    source: Source | None
    start: Count
    blocks: tuple[Block, ...]

    @property
    def count(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Bytes of the tensor."""
        return self.count * self.width


class Side(_Part):
    """One of the two checkpoints.

    Attributes:
        source: what it was called: a hub id, or the name of a directory.
        checksum: of its tensors together; of the base, of those that the delta takes something from.
    """

    source: str
    checksum: Checksum


class Manifest(_Part):
    """All that a delta says.

    Attributes:
        base: what it is applied to.
        finetuned: what comes out.
        frames_sha256: of all frames together.
        block_values: values in a block of a tensor; the last one of each has what is left.
        files: what is carried besides the weights.
        left_out: names in the directory of the fine-tuned checkpoint that are not carried.
        removed, added: names of tensors that only the base has, and that only the fine-tuned checkpoint has.
        retyped, reshaped: names of those that have another dtype, or another shape, in the base.
        shards: the files of weights.
        tensors: those of the first shard in the order of the file, then those of the next.
    """

    base: Side
    finetuned: Side
    frames_sha256: Checksum
    block_values: Annotated[int, Field(gt=0, le=1 << 26)]
    files: tuple[CarriedFile, ...]
    left_out: tuple[str, ...]
    removed: tuple[str, ...]
    added: tuple[str, ...]
    retyped: tuple[str, ...]
    reshaped: tuple[str, ...]
    shards: tuple[Shard, ...]
    tensors: tuple[Tensor, ...]

    @classmethod
    def from_json(cls, text: bytes) -> Manifest:
        """Return a manifest in which everything fits together.

        Raises:
            DeltaError: something does not.
        """
        try:
            manifest = cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "it"
            raise DeltaError(f"its manifest is not as format 1 has it ({where}: {first['msg']}).") from error
        for problem in _problems(manifest):
            raise DeltaError(f"its manifest contradicts itself: {problem}.")
        return manifest

    def by_shard(self) -> Iterator[tuple[Shard, tuple[Tensor, ...]]]:
        """Yield each shard with its tensors."""
        start = 0
        for shard in self.shards:
            yield shard, self.tensors[start : start + shard.tensors]
            start += shard.tensors

    @property
    def written(self) -> dict[str, str]:
        """Path → SHA-256 of each file that applying writes."""
        shards = {each.path: each.sha256 for each in self.shards}
        return shards | {each.path: each.sha256 for each in self.files}

    @property
    def dense_size(self) -> int:
        """Bytes of all weights of the fine-tuned checkpoint."""
        return sum(tensor.size for tensor in self.tensors)

    @property
    def written_size(self) -> int:
        """Bytes of all that applying writes."""
        return sum(shard.size for shard in self.shards) + sum(file.frame.size for file in self.files)


def checksum(tensors: Iterable[tuple[str, str]]) -> str:
    """Return the checksum of tensors together.

    Args:
        tensors: (name, SHA-256 of its bytes, hexadecimal), in any order.
    """
    lines = sorted(f"{sha256}  {name}\n".encode() for name, sha256 in tensors)
    return hashlib.sha256(b"".join(lines)).hexdigest()


def base_checksum(tensors: Iterable[Tensor]) -> str:
    """Return the checksum of what these tensors take from the base."""
    sources = (tensor.source for tensor in tensors)
    return checksum({(source.name, source.sha256) for source in sources if source is not None and source.of == "base"})


def _problems(manifest: Manifest) -> Iterator[str]:
    paths = [each.path for each in manifest.files] + [each.path for each in manifest.shards]
    yield from (f"it would write to {shown(path)}" for path in paths if unsafe(path))
    # Some file systems take names that differ in case for the same.
    if len({path.casefold() for path in paths}) < len(paths):
        yield "two of its files have one name"
    yield from (f"{shown(file.path)} is too large" for file in manifest.files if file.frame.size > LARGEST_FILE)
    yield from (f"{shown(each.path)} is too large" for each in manifest.shards if each.header.size > _LARGEST_HEADER)
    if len({tensor.name for tensor in manifest.tensors}) < len(manifest.tensors):
        yield "two of its tensors have one name"
    if sum(shard.tensors for shard in manifest.shards) != len(manifest.tensors):
        yield "its shards have not as many tensors as there are"
    for shard, tensors in manifest.by_shard():
        if shard.size != shard.header.size + sum(tensor.size for tensor in tensors):
            yield f"{shown(shard.path)} has not as many bytes as its tensors"
    yield from _problems_of_sources(manifest.tensors)
    for tensor in manifest.tensors:
        yield from _problems_of_blocks(tensor, manifest.block_values)
    if manifest.finetuned.checksum != checksum((tensor.name, tensor.sha256) for tensor in manifest.tensors):
        yield "the checksum of the fine-tuned checkpoint is not that of its tensors"
    if manifest.base.checksum != base_checksum(manifest.tensors):
        yield "the checksum of the base is not that of its tensors"


def _problems_of_sources(tensors: Iterable[Tensor]) -> Iterator[str]:
    earlier: dict[str, Tensor] = {}
    for tensor in tensors:
        source = tensor.source
        if source is not None and source.of == "finetuned":
            found = earlier.get(source.name)
            if found is None or tensor.blocks or _bytes_of(found) != _bytes_of(tensor):
                yield f"{shown(tensor.name)} is to be the same as {shown(source.name)}"
            elif found.source is not None and found.source.of == "finetuned":
                yield f"{shown(tensor.name)} is a copy of a copy"
        if source is not None and not comparable(source.dtype, tensor.dtype):
            yield f"{shown(tensor.name)} in {tensor.dtype} is described against {shown(source.dtype)}"
        if not tensor.blocks and tensor.size and (source is None or source.count != tensor.count):
            yield f"{shown(tensor.name)} is nowhere"
        earlier[tensor.name] = tensor


def _bytes_of(tensor: Tensor) -> tuple[str, int, str]:
    return tensor.sha256, tensor.size, tensor.dtype


def _problems_of_blocks(tensor: Tensor, block_values: int) -> Iterator[str]:
    # Of a copy, the original has the blocks.
    described = tensor.source is None or tensor.source.of == "base"
    if tensor.changed > tensor.count or (described and tensor.changed != sum(block.changed for block in tensor.blocks)):
        yield f"{shown(tensor.name)} has {tensor.changed} changed values"
    if tensor.blocks and len(tensor.blocks) != -(-tensor.count // block_values):
        yield f"{shown(tensor.name)} has {len(tensor.blocks)} blocks"
        return
    for i, block in enumerate(tensor.blocks):
        count = min(block_values, tensor.count - i * block_values)
        if not 0 <= block.changed <= count or not 0 <= block.size <= largest_size(block, count, tensor.width):
            yield f"block {i} of {shown(tensor.name)} is larger than its weights"
        if block.length < 0 or (tensor.source is None and block.kind != "plain"):
            yield f"block {i} of {shown(tensor.name)} is {block.kind!r}, with {block.length} bytes"
