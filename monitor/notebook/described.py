"""What a run is, and what a source of its numbers has to give: the same from a directory and from a service."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from monitor.errors import ConfigurationError, name_some, shown
from monitor.terminal import printable

Columns = Mapping[str, Sequence[object]]
"""Name of a column → its values, equally many in each; None was not measured."""


@dataclass(frozen=True)
class Described:
    """What a run is, and how it stands.

    Attributes:
        base, base_fingerprint: where the frozen weights came from, and their identity in hexadecimal.
        criterion, visible_dtype: what counts as changed, and the dtype in which weights are compared.
        library_versions: library → version.
        weights: of the whole model, frozen ones included.
        references: name of a reference mask → its weights.
        tolerances: at which changed weights are counted, too.
        state: how the run stands, in a word; `reason` says why it ended.
        remarks: what is missing from its numbers, each in a sentence.
        mask_file: the final update mask; None where there is none, or it is not known where.
    """

    run_id: str
    name: str
    model: str
    base: str
    base_fingerprint: str
    labels: Mapping[str, str]
    criterion: str
    visible_dtype: str
    stored_dtypes: Sequence[str]
    library_versions: Mapping[str, str]
    weights: int
    references: Mapping[str, int]
    tolerances: Sequence[float]
    attempts: int
    state: str
    reason: str
    remarks: Sequence[str] = ()
    mask_file: Path | None = None

    @property
    def measured_as(self) -> str:
        """What a sparsity of this run has to be named with, such as "bits, bfloat16"."""
        return f"{self.criterion}, {self.visible_dtype}"


class Source(Protocol):
    """Where the numbers of one run come from. Steps rise, and none is there twice."""

    described: Described

    def observations(self) -> Columns:
        """Return step, time, attempt, and every quantity over all groups."""

    def groups(self) -> Columns:
        """Return step, layer, module, weights and what is counted, a row for each observation and group."""

    def last_groups(self) -> Columns:
        """Return the same of the last observation alone."""

    def logs(self) -> Columns:
        """Return step, time, name and value of what the trainer logged."""

    def references(self) -> Columns:
        """Return step, name, weights, intersection, overlap_o1, overlap_o2 and lift."""


def chosen(runs: Mapping[str, str], wanted: str | None, where: str) -> str:
    """Return the id of the run that is meant.

    Args:
        runs: id → name of those that are there.
        wanted: an id or a name; None where there is but one.

    Raises:
        ConfigurationError: none is meant, or several may be.
    """
    found = [run for run, name in runs.items() if wanted in (None, run, name)]
    if wanted in runs:
        return str(wanted)
    if len(found) == 1:
        return found[0]
    listed = name_some(
        [f"{run!r} ({printable(runs[run])})" if runs[run] else repr(run) for run in (found or runs)], limit=20
    )
    if not runs:
        raise ConfigurationError(f"{where} has no run yet. Give the address or directory of one that was reported.")
    if found and wanted is None:
        raise ConfigurationError(f"{where} has {len(found)} runs: name one, as in …#RUN; there are {listed}")
    if found:
        raise ConfigurationError(
            f"{where} has {len(found)} runs called {shown(wanted)}: give the id of one; there are {listed}"
        )
    raise ConfigurationError(f"{where} has no run {shown(wanted)}; there are {listed}")
