"""The sizes of runs in a database server, which takes long to estimate them: measured no oftener than need be."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from monitor.service.live.runs import LiveRun

_AGAIN_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class _Measured:
    bytes: int
    version: int
    at: float


class RunSizes:
    """Sizes of the runs of a store: measured when they are asked for, of a run under way not more than once an hour.

    Args:
        measure: the size of a run in bytes, see `of_run` in storage/queries/sizes.py.
    """

    def __init__(self, measure: Callable[[str], Awaitable[int]], clock: Callable[[], float] = time.monotonic) -> None:
        self._measure = measure
        self._clock = clock
        self._measured: dict[str, _Measured] = {}

    async def total(self, runs: list[LiveRun]) -> int:
        """Return how many bytes these runs take, which are all there are."""
        there = {run.run_id for run in runs}
        self._measured = {run_id: each for run_id, each in self._measured.items() if run_id in there}
        return sum([await self._of(run) for run in runs])

    async def _of(self, run: LiveRun) -> int:
        known = self._measured.get(run.run_id)
        if known is None or (known.version != run.version and self._is_due(known, run)):
            known = _Measured(await self._measure(run.run_id), run.version, self._clock())
            self._measured[run.run_id] = known
        return known.bytes

    def _is_due(self, known: _Measured, run: LiveRun) -> bool:
        return run.finish is not None or self._clock() - known.at >= _AGAIN_SECONDS
