"""What a delta costs, beside what it is for and what simpler ways would take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from monitor.analysis.delta.blocks import Kind
from monitor.analysis.delta.manifest import Manifest, Tensor

_POSITION_BYTES = 4


@dataclass(frozen=True)
class Figures:
    """Sizes in bytes, and numbers of values.

    Attributes:
        dense_bytes: all weights of the fine-tuned checkpoint.
        delta_bytes: the file of the delta.
        files_bytes: of it, the carried files, the index of shards and the headers.
        least_bytes: for each tensor the least of (4 + w)·k, N/8 + w·k and w·N, for k of N values of w bytes changed:
            positions of 4 bytes, a bit for each value, or everything, none of them compressed (arXiv 2602.03839).
        weights: values of the fine-tuned checkpoint.
        changed: values whose stored bits differ from the base's, or that the base does not have.
        tensors: number of tensors.
        unchanged, copied: of them, those that are a tensor of the base, or another one of the fine-tuned checkpoint.
        blocks: in how many blocks the changes are stored in which way.
        dtypes: values in each dtype.
    """

    dense_bytes: int
    delta_bytes: int
    files_bytes: int
    least_bytes: int
    weights: int
    changed: int
    tensors: int
    unchanged: int
    copied: int
    blocks: dict[Kind, int]
    dtypes: dict[str, int]

    @property
    def ratio(self) -> float:
        """How many times larger the weights are than the delta."""
        return self.dense_bytes / self.delta_bytes

    @property
    def density(self) -> float:
        """Share of the values that changed; 0 where there are none."""
        return self.changed / self.weights if self.weights else 0.0

    def as_json(self) -> dict[str, object]:
        """Return all of it for machines."""
        return {**asdict(self), "ratio": self.ratio, "density": self.density}


def figures_of(manifest: Manifest, delta_bytes: int) -> Figures:
    """Return the figures of a delta whose file has so many bytes."""
    tensors = manifest.tensors
    copied = sum(tensor.source is not None and tensor.source.of == "finetuned" for tensor in tensors)
    carried = sum(file.frame.length for file in manifest.files) + sum(each.header.length for each in manifest.shards)
    return Figures(
        dense_bytes=manifest.dense_size,
        delta_bytes=delta_bytes,
        files_bytes=carried,
        least_bytes=sum(map(least_bytes, tensors)),
        weights=sum(tensor.count for tensor in tensors),
        changed=sum(tensor.changed for tensor in tensors),
        tensors=len(tensors),
        unchanged=sum(tensor.source is not None and not tensor.blocks for tensor in tensors) - copied,
        copied=copied,
        blocks=dict(Counter(block.kind for tensor in tensors for block in tensor.blocks).most_common()),
        dtypes=_values_by_dtype(tensors),
    )


def least_bytes(tensor: Tensor) -> int:
    """Return what the best of the three uncompressed ways takes for a tensor."""
    count, changed, width = tensor.count, tensor.changed, tensor.width
    return min((_POSITION_BYTES + width) * changed, -(-count // 8) + width * changed, width * count)


def _values_by_dtype(tensors: Iterable[Tensor]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for tensor in tensors:
        found[tensor.dtype] += tensor.count
    return dict(found.most_common())
