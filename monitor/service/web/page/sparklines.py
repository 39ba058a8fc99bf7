"""The small curve of each run on the overview: read thinned, kept, and read again no oftener than the store bears."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from monitor.percent import percent
from monitor.service.errors import StoreError
from monitor.service.live.runs import LiveRun
from monitor.service.recording.recorder import Recorder
from monitor.service.storage.queries.curves import Curve, Range

FIELDS = ("cumulative_sparsity", "step_sparsity")
WIDTH, HEIGHT = 120, 24

_POINTS = 60
# One answer reads no longer than this; what is left, the next one does.
_AT_MOST_SECONDS = 0.5
# Of a run, one part in so many of the time goes into reading its curve again: a long one takes 0.1 s.
_REST = 100


@dataclass(frozen=True, slots=True)
class Sparkline:
    """What is drawn, in a box of WIDTH × HEIGHT, from the least value at the bottom to the greatest at the top.

    Attributes:
        line: points of the last values.
        band: corners of what lies between minima and maxima, so that no peak is lost.
        said: the same in words.
    """

    line: str
    band: str
    said: str


@dataclass(frozen=True, slots=True)
class _Read:
    version: int
    at: float
    again_at: float
    curves: Mapping[str, Curve]


class Sparklines:
    """The curves of runs, each kept until the run has something new."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._read: dict[str, _Read] = {}
        self._one_at_a_time = asyncio.Lock()

    async def of(self, runs: Sequence[LiveRun]) -> tuple[dict[str, dict[str, Sparkline]], int]:
        """Return for each run what it has of FIELDS, and how many runs were left for the next time.

        A store that fails leaves what was read before.
        """
        async with self._one_at_a_time:
            self._read = {run.run_id: self._read[run.run_id] for run in runs if run.run_id in self._read}
            try:
                left = await self._read_again(runs)
            except StoreError:
                left = 0
            known = {run.run_id: self._read[run.run_id].curves for run in runs if run.run_id in self._read}
        return {run.run_id: _drawn(known.get(run.run_id, {})) for run in runs}, left

    async def _read_again(self, runs: Sequence[LiveRun]) -> int:
        now = time.monotonic()
        due = sorted((run for run in runs if self._is_due(run, now)), key=self._read_at)
        for done, run in enumerate(due, 1):
            self._read[run.run_id] = await self._curves(run)
            if time.monotonic() > now + _AT_MOST_SECONDS:
                return len(due) - done
        return 0

    def _is_due(self, run: LiveRun, now: float) -> bool:
        read = self._read.get(run.run_id)
        return read is None or (read.version != run.version and now >= read.again_at)

    def _read_at(self, run: LiveRun) -> float:
        read = self._read.get(run.run_id)
        return read.at if read else 0.0

    async def _curves(self, run: LiveRun) -> _Read:
        began = time.monotonic()
        extent = await self._recorder.extent(run.run_id)
        steps = Range.of(*extent, _POINTS) if extent else None
        curves = await self._recorder.curves(run.run_id, FIELDS, steps, run.weights) if steps else {}
        now = time.monotonic()
        return _Read(run.version, now, now + _REST * (now - began), curves)


def _drawn(curves: Mapping[str, Curve]) -> dict[str, Sparkline]:
    drawn = {name: sparkline(curve) for name, curve in curves.items()}
    return {name: each for name, each in drawn.items() if each is not None}


def sparkline(curve: Curve) -> Sparkline | None:
    """Return how a curve of ratios is drawn, None if it has fewer than two numbers."""
    columns = zip(curve.step, curve.minimum, curve.maximum, curve.last, strict=True)
    points = [
        (step, low, high, last)
        for step, low, high, last in columns
        if low is not None and high is not None and last is not None
    ]
    if len(points) < 2:
        return None
    least, greatest = min(low for _, low, _, _ in points), max(high for _, _, high, _ in points)
    first, last = points[0], points[-1]

    def place(step: int, value: float) -> str:
        x = (step - first[0]) / (last[0] - first[0]) * (WIDTH - 2) + 1
        y = (greatest - value) / (greatest - least) if greatest > least else 0.5
        return f"{x:.1f},{y * (HEIGHT - 4) + 2:.1f}"

    upper = [place(step, high) for step, _, high, _ in points]
    lower = [place(step, low) for step, low, _, _ in points]
    return Sparkline(
        line=" ".join(place(step, value) for step, _, _, value in points),
        band=" ".join([*upper, *reversed(lower)]),
        said=f"from {percent(first[3])} at step {first[0]} to {percent(last[3])} at step {last[0]}, "
        f"between {percent(least)} and {percent(greatest)}",
    )
