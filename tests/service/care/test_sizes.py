"""The sizes of runs in a database server are not asked for all the time."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from monitor.service.care.sizes import RunSizes
from monitor.service.live.runs import LiveRun, from_store
from monitor.service.storage.stored import StoredRun
from tests.service.messages import finished, registration


class _Measuring:
    """Says a hundred bytes of each run, and remembers who was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.now = 0.0
        self.sizes = RunSizes(self._measure, lambda: self.now)

    async def _measure(self, run_id: str) -> int:
        self.asked.append(run_id)
        return 100

    def total(self, *runs: LiveRun) -> int:
        self.asked.clear()
        return asyncio.run(self.sizes.total(list(runs)))


def _run(run_id: str, *, ended: bool) -> LiveRun:
    return from_store(
        StoredRun(
            registrations={1: registration(run_id)},
            registered_at=0,
            heard_at=0,
            observation_heard_at=None,
            unsent_items=0,
            dropped_items=0,
            observation=None,
            logs=[],
            finish=finished(1).finish if ended else None,
            observations=0,
            observed_at=[],
        )
    )


def test_a_run_is_measured_anew_only_when_it_has_changed_and_under_way_only_now_and_then() -> None:
    measuring = _Measuring()
    ended, under_way = _run("ended", ended=True), _run("under way", ended=False)
    assert measuring.total(ended, under_way) == 200
    assert measuring.total(ended, under_way) == 200
    assert measuring.asked == []
    measuring.total(replace(ended, version=-1), replace(under_way, version=-1))
    assert measuring.asked == ["ended"]
    measuring.now = 3600.0
    measuring.total(replace(ended, version=-1), replace(under_way, version=-1))
    assert measuring.asked == ["under way"]


def test_one_that_is_gone_takes_nothing_and_is_forgotten() -> None:
    measuring = _Measuring()
    run, other = _run("run", ended=True), _run("other", ended=True)
    measuring.total(run, other)
    assert measuring.total(other) == 100
    measuring.total(run, other)
    assert measuring.asked == ["run"]
