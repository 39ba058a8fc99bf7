"""Comparison: how weights differ from the base, looked at apart from the observations, which it leaves as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from monitor.observe.kernels import kernel_for
from monitor.observe.kernels.contract import Bind, Counts, Rules
from monitor.observe.measurement import Measurement
from monitor.observe.observation import IntArray
from monitor.observe.ranks import NOTES
from monitor.observe.state import MonitorState
from monitor.observe.tally import Tally
from monitor.observe.weights.groups import Group
from monitor.observe.weights.measured import MeasuredWeights
from monitor.observe.weights.roster import Roster


@dataclass(frozen=True)
class Comparison:
    """The update mask of weights that may not be those of any observation, such as those that are saved.

    Attributes:
        step: optimizer step that the weights belong to.
        groups: the group table.
        changed: visible weights that differ from the base, one entry per group.
        as_observed: whether they are the same ones as at the latest observation.
        words: parameter name → int32 words of the mask, of what this process measures.
    """

    step: int
    groups: tuple[Group, ...]
    changed: IntArray
    as_observed: bool
    words: Mapping[str, torch.Tensor]


class MaskAside:
    """Makes an update mask beside that of the observations.

    Args:
        roster: what is measured.
        state: what the observations hold of it; it is only read.
        rules: how weights are compared.
        bind: makes the kernels; None takes the fastest there are where the weights are.
    """

    def __init__(self, roster: Roster, state: MonitorState, rules: Rules, bind: Bind | None) -> None:
        self._roster, self._observed = roster, state
        self._state = state.aside(roster.measured)
        self._rules, self._bind = rules, bind or kernel_for
        self._measurement = Measurement(roster, self._state, rules, bind)

    def compare(self, step: int, given: Mapping[str, torch.Tensor] | None, tally: Tally) -> Comparison:
        """Make the mask, and return what all processes counted. All of them must call this.

        Args:
            step: optimizer step that the weights belong to.
            given: parameter name → whole weights to be compared; None for those that the model holds.
            tally: adds the counts up.
        """
        ranks, shape = self._roster.ranks, self._measurement.shape
        nothing = torch.zeros(NOTES, dtype=torch.int64, device="cpu")
        sent = ranks.send(lambda: self._measure(given), nothing, *shape, step)
        counts, _ = ranks.receive(sent.cpu(), *shape)
        as_observed = ranks.all_say(self._is_as_observed())
        return Comparison(step, self._roster.table.groups, tally.changed(counts), as_observed, self._state.masks)

    def _measure(self, given: Mapping[str, torch.Tensor] | None) -> Counts:
        if given is None:
            return self._measurement.measure()
        # One after the other: never are two of them on the device.
        parts = [self._measure_given(weights, given) for weights in self._roster.measured]
        return Counts(torch.cat([part.integers for part in parts]), torch.cat([part.floats for part in parts]))

    def _measure_given(self, weights: MeasuredWeights, given: Mapping[str, torch.Tensor]) -> Counts:
        current = weights.of_whole(given[weights.name]).to(weights.source.device)
        counts = self._bind([self._state.segment(weights, current)], self._rules)()
        return Counts(counts.integers.cpu(), counts.floats.cpu())

    def _is_as_observed(self) -> bool:
        observed = self._observed.masks
        return all(torch.equal(words, observed[name]) for name, words in self._state.masks.items())
