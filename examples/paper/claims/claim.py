"""A published claim, beside what the small model shows of it: what every file here returns one of."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from paper.results import Result

Verdict = Literal["shown", "shown in part", "not shown", "not run"]
Draw = Callable[[Path], None]
NOT_RUN: Verdict = "not run"


@dataclass(frozen=True)
class Runs:
    """The experiments that have finished, by name.

    Attributes:
        results: name → result.
        base: directory of the base model.
        right_before: share of its answers that are right, 0 to 1.
    """

    results: Mapping[str, Result]
    base: Path
    right_before: float

    def named(self, names: Iterable[str]) -> list[tuple[str, Result]]:
        """Return those of these experiments that have finished."""
        return [(name, self.results[name]) for name in names if name in self.results]

    def have(self, *names: str) -> bool:
        """Whether all of them have finished."""
        return all(name in self.results for name in names)


@dataclass(frozen=True)
class Claim:
    """What is claimed, and what was found here.

    Attributes:
        title: of the section.
        published: the claim and its numbers, with the source.
        verdict: whether the small model shows it.
        finding: what was found, in a sentence or two.
        header, rows: of the table; the first column is text.
        plot: file name without suffix, and what draws it.
        why: where small and large models differ, and the reason as far as it is known.
    """

    title: str
    published: str
    verdict: Verdict
    finding: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    plot: tuple[str, Draw] | None
    why: str


def judged(is_shown: bool, in_part: bool = False) -> Verdict:
    if is_shown:
        return "shown"
    return "shown in part" if in_part else "not shown"


def number(value: float, digits: int) -> str:
    """Return a number as text; a dash where there is none, as of a run that changed nothing."""
    return "—" if math.isnan(value) else f"{value:.{digits}f}"


def percent(share: float, digits: int = 1) -> str:
    """Return a share from 0 to 1 as text; a dash where there is none."""
    return "—" if math.isnan(share) else f"{number(100 * share, digits)} %"


def at_tolerance(result: Result, tolerance: float) -> float:
    """Return the cumulative sparsity where weights count as changed that differ by more than a tolerance, 0 to 1."""
    return 1 - result.changed_at[f"{tolerance:g}"] / result.trained
