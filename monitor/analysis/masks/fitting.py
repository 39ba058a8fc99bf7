"""Several mask files, opened together and checked against each other: are they of one model, measured alike?"""

from __future__ import annotations

import math
import string
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from monitor.errors import MaskMismatchError, name_some
from monitor.observe.masks.file import MaskFile, MaskMetadata


def letters(position: int) -> str:
    """Return how the mask at a position is called where its path is too long.

    >>> letters(0), letters(25), letters(26)
    ('A', 'Z', 'AA')
    """
    above, last = divmod(position, len(string.ascii_uppercase))
    return (letters(above - 1) if above else "") + string.ascii_uppercase[last]


@dataclass(frozen=True)
class FittingMasks:
    """Mask files of one model. Close them, or use them in a `with` statement.

    Attributes:
        paths: as they were given.
        files: the open files, in the same order.
        shapes: parameter name → shape, of the parameters that all of them cover, in the order of the first.
        left_out: the parameters that only some of them cover.
        warnings: what makes them hard to compare, a sentence each.
    """

    paths: tuple[str, ...]
    files: tuple[MaskFile, ...]
    shapes: dict[str, tuple[int, ...]]
    left_out: tuple[str, ...]
    warnings: tuple[str, ...]
    _opened: ExitStack = field(repr=False)

    @classmethod
    def open(cls, paths: Sequence[str | Path], *, all_cover_the_same: bool = False) -> Self:
        """Open mask files, and check that they fit each other.

        Args:
            paths: one or more.
            all_cover_the_same: refuse masks of which one covers a parameter that another does not.

        Raises:
            MaskFileError: one does not exist, is no mask, is damaged, or was written by a newer version.
            MaskMismatchError: a parameter has another shape in another mask, there is none that all cover, or
                `all_cover_the_same` is not so.
        """
        with ExitStack() as stack:
            names = tuple(map(str, paths))
            files = tuple(stack.enter_context(MaskFile(path)) for path in names)
            _check_shapes(names, files)
            common, left_out = _common(files)
            if (not common and len(files) > 1) or (left_out and all_cover_the_same):
                raise MaskMismatchError(_not_the_same(names, files))
            warnings = tuple(_warnings(names, files, left_out))
            shapes = {name: files[0].shapes[name] for name in common}
            return cls(names, files, shapes, left_out, warnings, stack.pop_all())

    @property
    def letters(self) -> tuple[str, ...]:
        """A, B, C …, one for each mask."""
        return tuple(map(letters, range(len(self.files))))

    @property
    def weights(self) -> dict[str, int]:
        """Parameter name → number of weights."""
        return {name: math.prod(shape) for name, shape in self.shapes.items()}

    @property
    def shared_metadata(self) -> MaskMetadata:
        """What all masks say of themselves; nothing where they differ."""

        def shared(said: Iterable[str]) -> str:
            different = set(said)
            return different.pop() if len(different) == 1 else ""

        each = [file.metadata for file in self.files]
        return MaskMetadata(
            criterion=shared(metadata.criterion for metadata in each),
            visible_dtype=shared(metadata.visible_dtype for metadata in each),
            base_fingerprint=shared(metadata.base_fingerprint for metadata in each),
            step=int(shared(str(metadata.step) for metadata in each) or 0),
            run_id=shared(metadata.run_id for metadata in each),
        )

    def close(self) -> None:
        """Close the files."""
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _check_shapes(paths: Sequence[str], files: Sequence[MaskFile]) -> None:
    first: dict[str, tuple[str, tuple[int, ...]]] = {}
    for path, file in zip(paths, files, strict=True):
        for name, shape in file.shapes.items():
            other, expected = first.setdefault(name, (path, shape))
            if shape != expected:
                raise MaskMismatchError(
                    f"{name} is of shape {list(expected)} in {other!r} and of {list(shape)} in {path!r}: these are "
                    "masks of different models. Expected masks of one architecture."
                )


def _common(files: Sequence[MaskFile]) -> tuple[list[str], tuple[str, ...]]:
    """Return the parameters that all masks cover, and those that only some do."""
    everywhere = set.intersection(*(set(file.shapes) for file in files))
    anywhere = dict.fromkeys(name for file in files for name in file.shapes)
    return [name for name in files[0].shapes if name in everywhere], tuple(n for n in anywhere if n not in everywhere)


def _not_the_same(paths: Sequence[str], files: Sequence[MaskFile]) -> str:
    """Return a sentence about the first mask that covers other parameters than the first one."""
    expected = files[0].shapes
    for path, file in zip(paths, files, strict=True):
        lacking = [name for name in expected if name not in file.shapes]
        more = [name for name in file.shapes if name not in expected]
        found = [f"{verb} {name_some(names, 3)}" for verb, names in (("lacks", lacking), ("has also", more)) if names]
        if found:
            return (
                f"{path!r} does not cover the parameters that {paths[0]!r} covers: it {' and '.join(found)}. Expected "
                "masks of one model, from runs with the same include and exclude."
            )
    return f"{paths[0]!r} covers no parameters: there is nothing to compare. Expected a mask of a run that trained."


def _warnings(paths: Sequence[str], files: Sequence[MaskFile], left_out: Sequence[str]) -> Iterator[str]:
    if left_out:
        yield (
            f"only some of the masks cover {name_some(list(left_out), 3)}: left out, and all counts are of the "
            f"{len(set.intersection(*(set(file.shapes) for file in files))):,} parameters that every mask covers"
        )
    yield from _if_different(paths, [f.metadata.criterion for f in files], "were measured by different criteria")
    yield from _if_different(paths, [f.metadata.visible_dtype for f in files], "are of different visible dtypes")
    bases = [file.metadata.base_fingerprint if _comparable(file, files[0]) else "" for file in files]
    yield from _if_different(paths, bases, "were taken against different bases")


def _if_different(paths: Sequence[str], said: Sequence[str], how: str) -> Iterator[str]:
    known = [(path, text) for path, text in zip(paths, said, strict=True) if text]
    other = next((pair for pair in known if pair[1] != known[0][1]), None)
    if other is not None:
        (a, first), (b, second) = known[0], other
        yield f"the masks {how} ({first} in {a!r}, {second} in {b!r}): what they have in common is hard to read"


def _comparable(file: MaskFile, other: MaskFile) -> bool:
    # A fingerprint is of the visible weights of all parameters that the mask covers.
    same_dtype = file.metadata.visible_dtype == other.metadata.visible_dtype
    return same_dtype and set(file.shapes) == set(other.shapes)
