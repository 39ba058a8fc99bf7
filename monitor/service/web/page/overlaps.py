"""What is known of the overlap between the masks that runs ended with: what one measured with the other's as reference.

The service has counts and no masks. A reference mask counts as the one that a run ended with if it is named after the
run, and has as many weights in every group as that run had changed at its latest observation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from monitor.service.live.runs import LiveRun
from monitor.wire.monitor_pb2 import Reference


@dataclass(frozen=True, slots=True)
class Overlap:
    """The overlap of two masks, or why it is not known.

    Attributes:
        jaccard: |M∩R| ÷ |M∪R|, from 0 to 1.
        by_chance: the same if weights were in both by chance, stratified by matrix.
        why_not: empty where it is known.
    """

    jaccard: float | None
    by_chance: float | None
    why_not: str = ""


def overlap(one: LiveRun, other: LiveRun) -> Overlap:
    """Return the overlap of the latest masks of two runs: as either measured it, since it is the same both ways."""
    found = [_measured(one, other), _measured(other, one)]
    known = [each for each in found if each.jaccard is not None]
    if known:
        return known[0]
    telling = [each.why_not for each in found if each.why_not]
    return Overlap(None, None, telling[0] if telling else "neither run had a reference mask named after the other")


def _measured(run: LiveRun, other: LiveRun) -> Overlap:
    """Return what `run` measured with the mask of `other`."""
    latest = run.latest
    names = {other.run_id, other.registration.name} - {""}
    given = list(enumerate(latest.registration.references)) if latest else []
    named = [(number, reference) for number, reference in given if reference.name in names]
    if not named:
        return Overlap(None, None)
    wanted = [(number, reference) for number, reference in named if _is_mask_of(reference, run, other)]
    if not wanted:
        return Overlap(None, None, f"a reference is named “{named[0][1].name}”, but is not the mask that run has now")
    measured = run.totals.references[wanted[0][0]]
    changed, expected = run.totals.counts.get("changed"), measured.expected_intersection
    if measured.intersection is None or changed is None:
        return Overlap(None, None, f"the latest observation did not measure the reference mask “{wanted[0][1].name}”")
    both = changed + measured.weights
    by_chance = None if expected is None else expected / (both - expected)
    return Overlap(measured.intersection / (both - measured.intersection), by_chance)


def _is_mask_of(reference: Reference, run: LiveRun, other: LiveRun) -> bool:
    if other.latest is None or _shapes(run) != _shapes(other):
        return False
    changed = other.latest.observation.changed
    # An empty mask is that of any run that changed nothing.
    return any(changed) and list(reference.weights) == list(changed)


def _shapes(run: LiveRun) -> list[tuple[str, int | None, str, int]]:
    return [
        (group.stack, group.layer if group.HasField("layer") else None, group.module, group.weights)
        for group in run.registration.groups
    ]


def matrix(runs: Sequence[LiveRun]) -> list[list[Overlap | None]]:
    """Return the overlap of each run with each, None with itself."""
    known: dict[frozenset[int], Overlap] = {
        frozenset((row, column)): overlap(runs[row], runs[column])
        for row in range(len(runs))
        for column in range(row + 1, len(runs))
    }
    return [[known.get(frozenset((row, column))) for column in range(len(runs))] for row in range(len(runs))]


def reasons(overlaps: Sequence[Sequence[Overlap | None]]) -> list[str]:
    """Return why overlaps are not known, each reason once."""
    return list(dict.fromkeys(each.why_not for row in overlaps for each in row if each and each.why_not))
