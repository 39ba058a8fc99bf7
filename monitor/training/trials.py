"""The trials of a hyperparameter search: one trainer starts them one after the other, and each is a run of its own."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monitor.limits import Limits, legible, shorten

if TYPE_CHECKING:
    from transformers import Trainer, TrainerState

logger = logging.getLogger(__name__)

_counted_here = count()


@dataclass(frozen=True)
class Trial:
    """One trial.

    Attributes:
        number: the search's own where the trainer is known, else the next one in the output directory, from 0.
        name: as `hp_name` calls it; empty where it does not.
        parameters: what is tried.
        directory: where its spool and its mask are kept.
    """

    number: int
    name: str
    parameters: Mapping[str, Any]
    directory: Path

    def named(self, run_name: str) -> str:
        """Return the name of the trial's run."""
        return f"{run_name} trial {self.number}" + (f" {self.name}" if self.name else "")

    def identified(self, run_id: str) -> str:
        """Return the identity of the trial's run, of the one that was given for all."""
        return f"{run_id}-trial-{self.number}"

    def labelled(self, labels: Mapping[str, str]) -> dict[str, str]:
        """Return the run's labels: those that were given, and the parameters as far as there is room."""
        limits = Limits.in_force()
        most, longest = limits.max_labels, limits.max_label_length
        tried = {"trial": str(self.number)} | {
            str(key): shorten(legible(str(value)), longest) for key, value in self.parameters.items()
        }
        new = [name for name in tried if name not in labels and len(name) <= longest]
        room = max(0, most - len(labels))
        if left_out := (set(tried) - set(labels)) - set(new[:room]):
            logger.warning(
                "sparsity-monitor: parameters of trial %d are no labels, as a run has at most %d and a name at most %d "
                "characters: %s.",
                self.number,
                most,
                longest,
                shorten(", ".join(sorted(left_out)), longest),
            )
        return {**{name: tried[name] for name in new[:room]}, **labels}


def find_trial(state: TrainerState, directory: Path, number: int | None) -> Trial | None:
    """Return the trial that begins, with a directory of its own; None outside of a search.

    Args:
        directory: where spools and masks are kept.
        number: the search's own, if it is known.
    """
    if not state.is_hyper_param_search:
        return None
    if number is None:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            number = _make_next(directory)
        except OSError:
            # What becomes of a run whose directory cannot be written is decided where its spool is made.
            number = next(_counted_here)
    return Trial(number, state.trial_name or "", state.trial_params or {}, directory / _name(number))


def trial_number(trainer: Trainer | None) -> int | None:
    """Return the number of the trial that a trainer is at; None where its search has none, or it is not known."""
    number = getattr(getattr(trainer, "_trial", None), "number", None)
    return number if isinstance(number, int) else None


def _name(number: int) -> str:
    return f"trial-{number}"


def _make_next(directory: Path) -> int:
    """Make the directory of the next trial; several processes may search in one output directory."""
    while True:
        names = (path.name.removeprefix("trial-") for path in directory.glob("trial-*"))
        number = max((int(name) for name in names if name.isdecimal()), default=-1) + 1
        try:
            (directory / _name(number)).mkdir()
        except FileExistsError:
            continue
        return number
