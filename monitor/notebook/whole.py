"""Every point of what a service has over the steps: what does not fit an answer is asked for in parts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from monitor.notebook.interface import Interface, Parameters

POINTS, GROUP_POINTS = 10_000, 1_000
"""The most that one answer has, of curves and of groups."""

# Into how many parts a stretch of steps is cut at most, where it does not fit an answer.
_PARTS = 64


def whole(
    interface: Interface, path: tuple[str, ...], wanted: Parameters, first: int | None = None, last: int | None = None
) -> Iterator[dict[str, Any]]:
    """Yield answers in which nothing is thinned, in the order of their steps.

    Args:
        path: below /api/v1, of something over the steps of a run.
        wanted: of it, with `points`.
        first: the step to begin with; None for the first there is.
        last: the step to end with; None for the last there is.
    """
    answer = interface.get(*path, parameters={**wanted, "from_step": first, "to_step": last})
    steps, width = _steps(answer), answer["bucket_steps"]
    if width == 1 or not steps:
        yield answer
        return
    # What an answer has of a bucket is its last step with a value: the others are less than a bucket before it.
    low, high = max(first or 0, steps[0] - width + 1), steps[-1]
    part = -(-(high - low + 1) // min(width, _PARTS))
    for start in range(low, high + 1, part):
        end = min(start + part - 1, high)
        if any(start <= step < end + width for step in steps):
            yield from whole(interface, path, wanted, start, end)


def _steps(answer: dict[str, Any]) -> list[int]:
    """Return the steps that an answer has anything of, in their order."""
    if "curves" in answer:
        return sorted({step for curve in answer["curves"].values() for step in curve["step"]})
    return list(answer["step"])
