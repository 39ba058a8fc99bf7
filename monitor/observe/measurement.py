"""Measurement: kernels bound to the weights that are measured, for one pass after the other."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import torch

from monitor.observe.borrowed import borrow
from monitor.observe.kernels import kernel_for
from monitor.observe.kernels.contract import Bind, Counts, Kernel, Rules, first_reference
from monitor.observe.state import MonitorState
from monitor.observe.weights.measured import MeasuredWeights
from monitor.observe.weights.roster import Roster


class Measurement:
    """Compares the weights with the state, and updates that.

    Args:
        roster: what is measured. When more is, another measurement is needed.
        state: what is held of it.
        rules: how weights are compared.
        bind: makes the kernels; None takes the fastest there are where the weights are.

    Attributes:
        shape: segments and columns of the integers that are counted.
    """

    def __init__(self, roster: Roster, state: MonitorState, rules: Rules, bind: Bind | None = None) -> None:
        self._stored, self._computed = roster.stored, roster.computed
        self._state, self._rules, self._bind = state, rules, bind or kernel_for
        self.shape = (len(roster.measured), first_reference(rules) + len(state.references.words))
        base = state.base.in_place
        self._base = [base[weights.name] for weights in roster.measured if weights.name in base]
        self._bound = _where(roster.measured, self._base)
        self._now: list[_Where] | None = None
        self._measured = roster.measured
        self._kernel = self._bind_stored()
        self._compile_for_computed()

    def look(self) -> bool:
        """Return whether some of the tensors have other memory, or lie in it in another way, than at the pass before.

        Wrappers exchange a parameter's storage (`parameter.data = …`).
        """
        self._now = _where(self._measured, self._base)
        return self._now != self._bound

    def measure(self) -> Counts:
        """Measure what is stored in one pass, then what adapters make one by one: never do two of these exist.

        Returns:
            one row for each of the roster's measured weights, in their order.
        """
        if self._now is None:
            self.look()
        if self._now is not None and self._now != self._bound:
            self._kernel, self._bound = self._bind_stored(), self._now
        self._now = None
        if not self._computed:
            return self._kernel()
        parts = [self._kernel()] if self._stored else []
        parts += (self._measure_computed(weights) for weights in self._computed)
        device = parts[0].integers.device
        return Counts(
            torch.cat([counts.integers.to(device) for counts in parts]),
            torch.cat([counts.floats.to(device) for counts in parts]),
        )

    def nothing(self) -> Counts:
        """Return the counts of a pass that measures nothing."""
        integers = torch.zeros(self.shape, dtype=torch.int64, device="cpu")
        return Counts(integers, torch.zeros(self.shape[0], 2, dtype=torch.float64, device="cpu"))

    def _measure_computed(self, weights: MeasuredWeights) -> Counts:
        # Bound for this pass alone: a kernel keeps the weights alive that it is bound to.
        return self._bind([self._state.segment(weights, weights.live())], self._rules)()

    def _bind_stored(self) -> Kernel:
        # On a CPU what is bound does not own the live weights: memory that the training gives up would stay taken until
        # the next pass. A pass on a GPU may still be reading it.
        return self._bind(
            [
                self._state.segment(weights, borrow(live) if live.device.type == "cpu" else live)
                for weights, live in ((weights, weights.live()) for weights in self._stored)
            ],
            self._rules,
        )

    def _compile_for_computed(self) -> None:
        """Compile what measures the weights that adapters make, for the base's, which are of the same kinds."""
        samples = [self._state.segment(w, w.of_whole(w.source)) for w in _smallest_of_each_kind(self._computed)]
        if samples:
            self._bind(samples, self._rules)


# Addresses of different devices differ.
_Where: TypeAlias = tuple[int, torch.dtype, torch.Size, tuple[int, ...]]


def _where(measured: Iterable[MeasuredWeights], base: Iterable[torch.Tensor]) -> list[_Where]:
    sources = (weights.source for weights in measured)
    return [(t.data_ptr(), t.dtype, t.shape, t.stride()) for t in (*sources, *base)]


def _smallest_of_each_kind(computed: Iterable[MeasuredWeights]) -> Iterable[MeasuredWeights]:
    smallest: dict[tuple[object, ...], MeasuredWeights] = {}
    for weights in sorted(computed, key=lambda each: each.count):
        if weights.count:
            smallest.setdefault((weights.source.dtype, weights.source.device, weights.original is None), weights)
    return smallest.values()
