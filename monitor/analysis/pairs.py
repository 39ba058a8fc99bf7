"""Two checkpoints side by side: the parameters that both have, one pair after the other, and what only one has."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from monitor.analysis.checkpoint import Checkpoint
from monitor.analysis.files import CheckpointFiles
from monitor.analysis.hub import is_hub_id
from monitor.errors import CheckpointError, name_some
from monitor.observe.weights.groups import GroupKey

# What architectures call the widths at the top of their configuration.
_WIDTHS = ("hidden_size", "intermediate_size", "n_embd", "d_model")


class Pair(NamedTuple):
    """One parameter of both checkpoints, in host memory, contiguous, of one shape; dtypes may differ."""

    name: str
    group: GroupKey
    base: torch.Tensor
    finetuned: torch.Tensor


@dataclass(frozen=True)
class Pairs:
    """The parameters that a base and a fine-tuned checkpoint have in common.

    Iterating reads one pair at a time: memory is bounded by the largest parameter, or the largest set that one
    conversion or adapter puts together.

    Attributes:
        base: what the fine-tuning started from.
        finetuned: what came out.
        names: names that both have in one shape, in the order of the fine-tuned model. With adapters, only what they
            change.
        unchanged: with adapters, the names that these leave as they are in the base; never read.
        missing: names that only the base has.
        added: names that only the fine-tuned has.
        left_out: names that both have and that are not compared, since the model has no such parameter.
        reshaped: name → shape in the base, shape in the fine-tuned.
    """

    base: Checkpoint
    finetuned: Checkpoint
    names: tuple[str, ...]
    unchanged: tuple[str, ...]
    missing: tuple[str, ...]
    added: tuple[str, ...]
    left_out: tuple[str, ...]
    reshaped: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]

    @classmethod
    def open(cls, base: str | Path, finetuned: str | Path) -> Pairs:
        """Open two directories, hub ids or files, the base as the class of the fine-tuned model, as a training does.

        Raises:
            CheckpointError: one is no checkpoint, or they are of different models, or are the same.
            UnsupportedModelError: there are adapters whose effective weights are not computed here.
        """
        _refuse_the_same(base, finetuned)
        files = CheckpointFiles.open(finetuned)
        if files.adapter is not None or files.json("config.json") is None:
            start = Checkpoint.open(base)
            return cls.of(start, Checkpoint.open(finetuned, like=start, base=start))
        trained = Checkpoint.open(finetuned)
        return cls.of(Checkpoint.open(base, like=trained), trained)

    @classmethod
    def of(cls, base: Checkpoint, finetuned: Checkpoint) -> Pairs:
        """Pair two checkpoints.

        Raises:
            CheckpointError: they are of different models: not one parameter is in both, in one shape.
        """
        _refuse_another_architecture(base, finetuned)
        there, here = base.shapes, finetuned.shapes
        all_there, all_here = (
            {**dict.fromkeys(each.parameters), **dict.fromkeys(each.left_out)} for each in (base, finetuned)
        )
        common = [name for name in here if here[name] == there.get(name)]
        pairs = cls(
            base,
            finetuned,
            tuple(name for name in common if name not in finetuned.unchanged),
            tuple(name for name in common if name in finetuned.unchanged),
            tuple(name for name in all_there if name not in all_here),
            tuple(name for name in all_here if name not in all_there),
            tuple(name for name in all_here if name in all_there and not (name in here and name in there)),
            {name: (there[name], shape) for name, shape in here.items() if there.get(name, shape) != shape},
        )
        if not pairs.names:
            raise CheckpointError(
                f"{base.source!r} and {finetuned.source!r} have no parameter of one name and shape in common: the "
                f"first has {name_some(list(there), 2) or 'none'}, the second {name_some(list(here), 2) or 'none'}. "
                "Expected a model, and what was trained from it."
            )
        return pairs

    @property
    def groups(self) -> dict[str, GroupKey]:
        """Name → group, of all parameters of the fine-tuned model: as the training that made it reports them."""
        return self.finetuned.groups

    @property
    def bytes(self) -> int:
        """Bytes of both sides that iterating reads."""
        return sum(
            weights.dtype.itemsize * torch.Size(weights.shape).numel()
            for checkpoint in (self.base, self.finetuned)
            for weights in (checkpoint.parameters[name] for name in self.names)
        )

    @property
    def notes(self) -> Iterator[str]:
        """Sentences about adapters that were given as a base, or were merged into another base than they name."""
        if self.base.files.adapter is not None:
            yield (
                "The base holds adapters, and stands for what they were merged into. If they are what was trained, "
                "give their base first."
            )
        named = str((self.finetuned.files.adapter or {}).get("base_model_name_or_path") or "")
        if named and Path(named.partition("@")[0]).name != _name_of(self.base.source):
            yield f"The adapters name {named} as their base, and were merged into {self.base.source}."

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.names)

    def __iter__(self) -> Iterator[Pair]:
        """Read one pair after the other."""
        for name in self.names:
            yield self.read(name)

    def read(self, name: str) -> Pair:
        """Read both sides of one parameter."""
        return Pair(name, self.groups[name], self.base.read(name), self.finetuned.read(name))


def _name_of(source: str) -> str:
    """Return the last part of a hub id or path."""
    path = Path(source.partition("@")[0] if is_hub_id(source) else source)
    return path.resolve().name if path.exists() else path.name


def _refuse_the_same(base: str | Path, finetuned: str | Path) -> None:
    # Of what cannot be looked at, such as a name that is too long, whoever opens it tells.
    same = str(base) == str(finetuned) or (
        os.path.exists(base) and os.path.exists(finetuned) and os.path.samefile(base, finetuned)
    )
    if same:
        raise CheckpointError(
            f"{str(base)!r} was given twice; expected the base and what was trained from it, which are two checkpoints."
        )


def _refuse_another_architecture(base: Checkpoint, finetuned: Checkpoint) -> None:
    given, expected = base.configuration, finetuned.configuration
    if not given or not expected:
        return
    different = [
        f"{name} {given[name]} instead of {expected[name]}"
        for name in _WIDTHS
        if name in given and name in expected and given[name] != expected[name]
    ]
    if not _kinds(given) & _kinds(expected):
        different = [f"model_type {given.get('model_type')!r} instead of {expected.get('model_type')!r}"]
    elif given.get("model_type") != expected.get("model_type"):
        return
    if different:
        raise CheckpointError(
            f"the base {base.source!r} is another model than {finetuned.source!r}: {', '.join(different)}. Give the "
            "checkpoint that the second was trained from."
        )


def _kinds(configuration: Mapping[str, Any]) -> set[Any]:
    """Return the kinds of a model and of its parts: a multimodal one has a language model's configuration in it."""
    parts = [configuration, *(part for part in configuration.values() if isinstance(part, dict))]
    return {part.get("model_type") for part in parts} - {None} or {None}
