"""FollowedModel: what is measured of a model at present, and by what; exchanged when the model is changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from monitor.errors import UnsupportedModelError
from monitor.observe.base.norms import squared_norms
from monitor.observe.base.weights import find
from monitor.observe.changes import ADVICE, Changes, describe
from monitor.observe.kernels.contract import Bind, Counts, Rules
from monitor.observe.measurement import Measurement
from monitor.observe.state import MonitorState
from monitor.observe.streams import Stream
from monitor.observe.tally import Tally
from monitor.observe.weights.roster import Roster


class FollowedModel:
    """Follows a model whose parameters start to train, are replaced, or are lost while it is observed.

    Roster, measurement and tally belong together: they are exchanged together, in all processes alike.

    Args:
        roster: what is measured of the model at the start. All processes must make this.
        state: what is held of it.
        rules: how weights are compared.
        bind: makes the kernels; None takes the fastest there are where the weights are.
        stream: where the passes run. Training waits for them before anything that they read is exchanged.
        base_squares: parameter name → Σ|θ₀|², of what is measured from the start.

    Attributes:
        roster: what is measured.
        state: what is held of it.
        measurement: the kernels bound to it.
        tally: adds up what they count.
    """

    def __init__(
        self,
        roster: Roster,
        state: MonitorState,
        rules: Rules,
        bind: Bind | None,
        stream: Stream,
        *,
        base_squares: Mapping[str, float],
    ) -> None:
        self.roster, self.state = roster, state
        self._rules, self._bind, self._stream = rules, bind, stream
        self._base_squares = dict(base_squares)
        self._ranks = roster.ranks
        self.measurement = self._ranks.all_or_none(lambda: Measurement(roster, state, rules, bind))
        self.tally = self._tally_of(roster)
        self._changes = Changes(roster, state.base.in_place)

    def thawed(self) -> tuple[list[str], list[str]]:
        """Return what trains since the last call: names of what is as it was while frozen, and of what was written to.

        All processes must call this, and `take_up` what it returns.
        """
        thawed, moved = self.roster.thawed()
        if thawed or moved:
            # A pass that is under way still reads the tables that `take_up` makes anew.
            self._stream.hold_training()
            return self._told_apart(thawed, moved)
        return thawed, moved

    def _told_apart(self, thawed: Sequence[str], moved: Sequence[str]) -> tuple[list[str], list[str]]:
        """Return which of these are what they were while frozen, and which were written to, on whichever process."""
        names = sorted([*thawed, *moved])
        # By their sums, too: fused optimizers write without raising the version.
        here = self._ranks.all_or_none(lambda: [*moved, *self._changes.untouched.moved(thawed)])
        found = self._ranks.anywhere(here, names)
        return [name for name in names if name not in found], found

    def take_up(self, thawed: Sequence[str], moved: Sequence[str]) -> None:
        """Measure what trains now, too. It may compile, for half a minute.

        Args:
            thawed: these from what they are now.
            moved: these cannot be measured, because nobody knows what they were.
        """
        if moved:
            self._exchange(self._changes.with_late_ones(self.roster, moved))
        if thawed:
            self._measure_too(thawed)

    def is_replaced(self) -> bool:
        """Return whether parameters are not where they were in this process, or are there again."""
        return self._changes.seen(self.roster, moved_in_memory=self.measurement.look())

    def look_again(self) -> None:
        """Find the parameters of the model where they are now. All processes must call this."""
        self._stream.hold_training()
        roster = self._changes.look_again(self.roster)
        if adapted := roster.adapted:
            self.roster = roster
            self._measure_too(adapted)
        else:
            self._exchange(roster)

    def look_for_moved(self) -> None:
        """Measure no more what was written to and must not be. All processes must call this."""
        roster = self._changes.look_for_moved(self.roster)
        if roster.lost != self.roster.lost:
            self._stream.hold_training()
            self._exchange(roster)

    def count_moved(self) -> torch.Tensor | None:
        """Return how much of what must not be written to has been, as `Untouched.count_moved` does."""
        return self._changes.untouched.count_moved()

    def check_that_something_is_left(self) -> None:
        """Check that there is anything to measure.

        Raises:
            UnsupportedModelError: all is lost.
        """
        if not self.roster.measured:
            raise UnsupportedModelError(
                f"nothing is left to measure: {describe(self.roster.lost)}. {ADVICE} The training itself is not "
                "affected."
            )

    def without_lost(self, counts: Counts, roster: Roster) -> tuple[Counts, Tally]:
        """Return the counts of a pass over what was on a roster without what is lost since, and what adds them up."""
        lost = {**roster.lost, **self.roster.lost}
        rows = torch.tensor([name not in lost for name in roster.shapes], device="cpu")
        tally = self._tally_of(roster.without(lost))
        return Counts(counts.integers[rows], counts.floats[rows]), tally

    def _measure_too(self, names: Sequence[str]) -> None:
        self._changes.untouched.forget(names)
        roster = self.roster.with_late(names)
        late = [weights for weights in roster.late if weights.name in set(names)]
        self.state.take_up(late)
        # Where one process fails, as for want of memory, the others must not wait for it.
        found = self._ranks.all_or_none(lambda: find(None, late))
        self._base_squares |= squared_norms(found, late, self._rules.visible_dtype, self._ranks)
        self._exchange(roster)

    def _exchange(self, roster: Roster) -> None:
        self.roster = roster
        self.check_that_something_is_left()
        self.measurement = self._ranks.all_or_none(lambda: Measurement(roster, self.state, self._rules, self._bind))
        self.tally = self._tally_of(roster)

    def _tally_of(self, roster: Roster) -> Tally:
        step_masks = self.state.touched is not None
        return Tally(roster, self._rules, self.state.references.ones, self._base_squares, step_masks=step_masks)
