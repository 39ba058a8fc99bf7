"""Changes: what happens to a model behind the observer's back, and which weights cannot be measured because of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from monitor.errors import name_some
from monitor.observe.base.untouched import Untouched
from monitor.observe.user_warning import warn_user
from monitor.observe.weights.presence import is_there
from monitor.observe.weights.roster import Roster

ADVICE = (
    "Start measuring when the model has its final form: wrapped, resized, with its adapters, on its device, and its "
    "weights in memory whenever they are looked at."
)
_BASE = "its base was written to"
_FROZEN = "written to although it is frozen"
_TOO_LATE = "written to before the monitor saw that it is trainable"
_WHY = {
    _BASE: "the base that is used where it is was written to, as by merging adapters into it or by a moving average. "
    "What they started from is lost. Give a base of its own, as a directory or a state dict, or let base_mode='device' "
    "keep a copy",
    _FROZEN: "written to although they do not require gradients. What they started from is lost. Let them require "
    "gradients before measuring starts",
    _TOO_LATE: "written to before the monitor saw that they are trainable. What they started from is not known. Switch "
    "requires_grad between steps, and in a loop of your own call follow() before the next step",
}


class Changes:
    """Which parameters are lost, and why.

    Args:
        roster: what is measured.
        in_place: name → base that is used where it is.

    Attributes:
        untouched: what must not be written to.
    """

    def __init__(self, roster: Roster, in_place: Mapping[str, torch.Tensor]) -> None:
        base = {name: _same(tensor) for name, tensor in in_place.items()}
        self.untouched = Untouched(base | {weights.name: weights.live for weights in roster.frozen})
        self._base = in_place
        self._gone: dict[str, str] = {}
        self._absent: dict[str, str] = {}
        self._absent_here: dict[str, str] = {}
        self._moved: dict[str, str] = {}
        self._told: set[tuple[str, str]] = set()

    def seen(self, roster: Roster, *, moved_in_memory: bool) -> bool:
        """Return whether parameters are not where they were in this process, or are there again."""
        if not roster.is_in_place():
            return True
        return bool(moved_in_memory or self._absent_here) and self._absences(roster) != self._absent_here

    def look_again(self, roster: Roster) -> Roster:
        """Return the roster that follows the model to where its parameters are now. All processes must call this."""
        found, self._gone = roster.look_again()
        self._absent_here = self._absences(found)
        absent = found.ranks.anywhere(self._absent_here, found.names)
        self._absent = {name: self._absent_here.get(name, "without weights on another process") for name in absent}
        self.untouched.read_from({weights.name: weights.live for weights in found.frozen})
        return self._mark(found)

    def look_for_moved(self, roster: Roster) -> Roster:
        """Return the roster without what was written to and must not be. All processes must call this."""
        found = roster.ranks.anywhere(roster.ranks.all_or_none(self.untouched.moved), roster.names)
        self.untouched.forget(found)
        self._moved |= {name: _BASE if name in roster.shapes else _FROZEN for name in found}
        return self._mark(roster)

    def with_late_ones(self, roster: Roster, names: Sequence[str]) -> Roster:
        """Return the roster without what has moved before it was seen to train."""
        self.untouched.forget(names)
        self._moved |= dict.fromkeys(names, _TOO_LATE)
        return self._mark(roster)

    def _absences(self, roster: Roster) -> dict[str, str]:
        base = {name: "measured against a base that was emptied" for name, t in self._base.items() if not is_there(t)}
        return {name: why for name, why in (base | roster.absent()).items() if name not in self._gone}

    def _mark(self, roster: Roster) -> Roster:
        marked = roster.without({**self._absent, **self._gone, **self._moved})
        new = {name: reason for name, reason in marked.lost.items() if (name, reason) not in self._told}
        self._told.update(new.items())
        for reason in dict.fromkeys(new.values()):
            names = [name for name, why in new.items() if why == reason]
            what = f"{_WHY[reason]}." if reason in _WHY else f"{reason} since measuring started. {ADVICE}"
            warn_user(f"not measured any more: {name_some(names)}: {what} They are reported as unmeasured.")
        return marked


def describe(lost: Mapping[str, str]) -> str:
    """Return what happened to which parameters, in short."""
    return name_some([f"{name} is {reason}" for name, reason in lost.items()], limit=3)


def _same(tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
    return lambda: tensor
