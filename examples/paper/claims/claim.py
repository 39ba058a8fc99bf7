"""A published claim, beside what the small model shows of it: what every file here returns one of."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from paper.results import Result

Draw = Callable[[Path], None]


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
        criterion: what has to be found for it to count as shown, and as shown in part.
        verdict: whether the small model shows it, of `judged`.
        finding: what was found, in a sentence or two; empty where nothing can be.
        header, rows: of the table; the first column is text.
        plot: file name without suffix, and what draws it.
        why: where small and large models differ, and the reason as far as it is known.
    """

    title: str
    published: str
    criterion: str
    verdict: str
    finding: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    plot: tuple[str, Draw] | None
    why: str


def judged(runs: Runs, needed: Iterable[str], is_shown: Callable[[], bool], in_part: Callable[[], bool]) -> str:
    """Return the verdict on a claim: "shown", "shown in part" or "not shown", and of no part of its runs any of them.

    Args:
        needed: names of all experiments that the claim is judged by.
        is_shown, in_part: asked when all of them have finished.
    """
    names = set(needed)
    if not runs.have(*names):
        return f"cannot be said: {len(runs.named(names))} of {len(names)} runs"
    if is_shown():
        return "shown"
    return "shown in part" if in_part() else "not shown"


def brief(value: float) -> str:
    """Return a learning rate or tolerance as text, such as 5e-5."""
    return f"{value:g}".replace("e-0", "e-")


def between(values: Iterable[float]) -> str:
    """Return the range of shares from 0 to 1 as text."""
    found = list(values)
    return " to ".join(dict.fromkeys((percent(min(found)), percent(max(found)))))


def number(value: float, digits: int) -> str:
    """Return a number as text; a dash where there is none, as of a run that changed nothing."""
    return "—" if math.isnan(value) else f"{value:.{digits}f}"


def percent(share: float, digits: int = 1) -> str:
    """Return a share from 0 to 1 as text; a dash where there is none."""
    return "—" if math.isnan(share) else f"{number(100 * share, digits)} %"


def at_tolerance(result: Result, tolerance: float) -> float:
    """Return the cumulative sparsity where weights count as changed that differ by more than a tolerance, 0 to 1."""
    return 1 - result.changed_at[f"{tolerance:g}"] / result.trained
