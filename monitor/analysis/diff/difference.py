"""Difference: how two checkpoints differ, per group as in training, per parameter, and in all."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from monitor.analysis.diff.counting import Counted
from monitor.analysis.pairs import Pairs
from monitor.observe.criterion import dtype_name
from monitor.observe.kernels.contract import CHANGED, FIXED_COLUMNS, HIDDEN, MAX_ABS, NON_FINITE, SQUARED_NORM, Rules
from monitor.observe.weights.groups import GroupKey

Key = TypeVar("Key", bound=Hashable)


@dataclass
class Changes:
    """Counts of some weights; they add up.

    Attributes:
        weights: how many there are; none that an adapter leaves alone.
        changed: visible weights that differ from the base, by the criterion.
        changed_at: tolerance → visible weights that differ by more, in the order of the rules.
        hidden: stored weights that differ although the visible ones do not.
        non_finite: visible weights of the fine-tuned side that are NaN or infinite.
        squared_norm: Σ|Δ|² of the visible weights, over finite Δ.
        max_abs: max|Δ| of the visible weights, over finite Δ.
        frozen: weights beside these that an adapter leaves as they are.
    """

    weights: int = 0
    changed: int = 0
    changed_at: dict[float, int] = field(default_factory=dict)
    hidden: int = 0
    non_finite: int = 0
    squared_norm: float = 0.0
    max_abs: float = 0.0
    frozen: int = 0

    def add(self, other: Changes) -> None:
        """Add the counts of other weights."""
        self.weights += other.weights
        self.changed += other.changed
        for tolerance, count in other.changed_at.items():
            self.changed_at[tolerance] = self.changed_at.get(tolerance, 0) + count
        self.hidden += other.hidden
        self.non_finite += other.non_finite
        self.squared_norm += other.squared_norm
        self.max_abs = max(self.max_abs, other.max_abs)
        self.frozen += other.frozen

    @property
    def density(self) -> float:
        """Changed ÷ weights, 0 to 1; NaN where there are none."""
        return self.changed / self.weights if self.weights else math.nan

    def unchanged_at(self, tolerance: float | None) -> float:
        """Return the share of weights that do not differ by more, 0 to 1; None for the criterion."""
        count = self.changed if tolerance is None else self.changed_at[tolerance]
        return 1.0 - count / self.weights if self.weights else math.nan

    def as_json(self) -> dict[str, Any]:
        """Return the counts under the names that observations have."""
        return {
            "weights": self.weights,
            "frozen_weights": self.frozen,
            "changed": self.changed,
            "changed_at": {repr(tolerance): count for tolerance, count in self.changed_at.items()},
            "hidden": self.hidden,
            "non_finite": self.non_finite,
            "update_norm": math.sqrt(self.squared_norm),
            "max_abs": self.max_abs,
        }


@dataclass(frozen=True)
class Difference:
    """How two checkpoints differ.

    Attributes:
        pairs: the checkpoints.
        rules: how they were compared.
        parameters: name → counts, in the order of the model.
        fingerprint: of the visible base weights, as a training's; empty where no mask was made.
    """

    pairs: Pairs
    rules: Rules
    parameters: dict[str, Changes]
    fingerprint: str = ""

    @classmethod
    def of(cls, pairs: Pairs, rules: Rules, counted: Counted, fingerprint: str = "") -> Difference:
        """Take the counts of `pairs.names`, in that order."""
        rows = zip(counted.integers.tolist(), counted.floats.tolist(), strict=True)
        found = {name: _changes(pairs, name, rules, *row) for name, row in zip(pairs.names, rows, strict=True)}
        nothing = dict.fromkeys(rules.tolerances, 0)
        frozen = {name: Changes(frozen=_count(pairs, name), changed_at=dict(nothing)) for name in pairs.unchanged}
        together = found | frozen
        order = [name for name in pairs.finetuned.names if name in together]
        return cls(pairs, rules, {name: together[name] for name in order}, fingerprint)

    @property
    def total(self) -> Changes:
        """The counts of all weights."""
        total = Changes(changed_at=dict.fromkeys(self.rules.tolerances, 0))
        for changes in self.parameters.values():
            total.add(changes)
        return total

    @property
    def groups(self) -> dict[GroupKey, Changes]:
        """The counts per layer and module, as a training reports them."""
        return self._by(lambda key: key)

    @property
    def modules(self) -> dict[tuple[str, bool], Changes]:
        """(Module, whether it is in the layers) → the counts over all layers."""
        return self._by(lambda key: (key.module, key.layer is not None))

    @property
    def layers(self) -> dict[tuple[str, int], Changes]:
        """(Stack, layer) → the counts over its modules; what is outside the layers is in none."""
        found = self._by(lambda key: None if key.layer is None else (key.stack, key.layer))
        return {key: changes for key, changes in found.items() if key is not None}

    def _by(self, key_of: Callable[[GroupKey], Key]) -> dict[Key, Changes]:
        found: dict[Key, Changes] = {}
        for name, changes in self.parameters.items():
            found.setdefault(key_of(self.pairs.groups[name]), Changes()).add(changes)
        return found

    @property
    def shows_hidden(self) -> bool:
        """Whether any weights are stored with more digits than are visible, so that changes can hide."""
        return any(
            self.pairs.finetuned.parameters[name].dtype.itemsize > self.rules.visible_dtype.itemsize
            for name in self.pairs.names
        )

    @property
    def measured_as(self) -> str:
        """What counts as changed, for people: "bits, bfloat16"."""
        return f"{self.rules.criterion}, {dtype_name(self.rules.visible_dtype)}"

    def as_json(self) -> dict[str, Any]:
        """Return all of it for other programs; numbers that JSON lacks do not occur."""
        pairs = self.pairs
        return {
            "base": pairs.base.source,
            "finetuned": pairs.finetuned.source,
            "criterion": str(self.rules.criterion),
            "visible_dtype": dtype_name(self.rules.visible_dtype),
            "tolerances": list(self.rules.tolerances),
            "base_fingerprint": self.fingerprint,
            **self.total.as_json(),
            "groups": [{**vars(key), **changes.as_json()} for key, changes in self.groups.items()],
            "parameters": [
                {"name": name, "shape": list(pairs.finetuned.shapes[name]), **changes.as_json()}
                for name, changes in self.parameters.items()
            ],
            "notes": list(pairs.notes),
            "missing": list(pairs.missing),
            "added": list(pairs.added),
            "reshaped": {name: {"base": list(old), "finetuned": list(new)} for name, (old, new) in _items(pairs)},
            "left_out": list(pairs.left_out),
            "tied": pairs.finetuned.tied,
        }


def _items(pairs: Pairs) -> Iterable[tuple[str, tuple[tuple[int, ...], tuple[int, ...]]]]:
    return pairs.reshaped.items()


def _count(pairs: Pairs, name: str) -> int:
    return math.prod(pairs.finetuned.shapes[name])


def _changes(pairs: Pairs, name: str, rules: Rules, integers: list[int], floats: list[float]) -> Changes:
    return Changes(
        weights=_count(pairs, name),
        changed=integers[CHANGED],
        changed_at=dict(zip(rules.tolerances, integers[FIXED_COLUMNS:], strict=True)),
        hidden=integers[HIDDEN],
        non_finite=integers[NON_FINITE],
        squared_norm=floats[SQUARED_NORM],
        max_abs=floats[MAX_ABS],
    )


def fingerprint_rows(pairs: Pairs, sums: torch.Tensor) -> Iterable[tuple[str, tuple[int, ...], list[int]]]:
    """Return what a fingerprint is made of: name, shape, sums of each parameter."""
    return ((name, pairs.finetuned.shapes[name], row) for name, row in zip(pairs.names, sums.tolist(), strict=True))
