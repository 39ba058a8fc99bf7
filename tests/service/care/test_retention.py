"""What the settings retain: the longest silent goes first, what is under way stays, and acknowledgements go on."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from monitor.service.care import retention as module
from monitor.service.care.clock import ClockWatch
from monitor.service.care.retention import KEPT_OBSERVATIONS, Retention
from monitor.service.errors import StoreError
from monitor.service.metrics.instruments import Instruments
from monitor.service.recording.recorder import Recorder
from monitor.service.settings import ServiceSettings
from monitor.service.storage.store import Store
from monitor.service.storage.stored import START, Thinned
from monitor.wire import monitor_pb2 as pb
from tests.service.messages import finished, observed, registration
from tests.service.running import settings_for
from tests.service.storing import add, record

DAY = 24 * 3600.0
NOW = time.time()


class Care:
    """A recorder over a store with runs of a given age, and the retention of its service."""

    def __init__(self, settings: ServiceSettings) -> None:
        self.instruments = Instruments()
        self.recorder = Recorder(settings, self.instruments)
        self.clock, self.steady = NOW, 0.0
        watch = ClockWatch(lambda: self.clock, lambda: self.steady)
        self.retention = Retention(settings, self.recorder, self.instruments, watch)

    @property
    def runs(self) -> list[str]:
        return sorted(run.run_id for run in self.recorder.live.all())

    def counted(self, name: str, why: str) -> float | None:
        return self.instruments.registry.get_sample_value(f"sparsity_monitor_{name}", {"why": why})


def _fill(where: Path | str, days: dict[str, float], *, end: bool = True, count: int = 5) -> None:
    store = Store(_url(where))
    for run_id, age in days.items():
        store.register(registration(run_id), NOW - age * DAY, max_runs=100)
        last = [finished(count + 1, step=count)] * end
        batch = [*(observed(n) for n in range(1, count + 1)), *last]
        add(store, run_id, 1, batch, None, NOW - age * DAY)
    store.close()


def _url(where: Path | str) -> str:
    return f"sqlite:///{where / 'store.db'}" if isinstance(where, Path) else where


def _with_care(where: Path | str, use: Callable[[Care], Awaitable[None]], **settings: Any) -> None:
    async def main() -> None:
        care = Care(settings_for(_url(where), **settings))
        try:
            await use(care)
        finally:
            await care.recorder.close()

    asyncio.run(asyncio.wait_for(main(), timeout=60))


def test_by_default_everything_stays(tmp_path: Path) -> None:
    async def use(care: Care) -> None:
        await care.retention.sweep()
        assert care.runs == ["run"]

    _fill(tmp_path, {"run": 5000}, count=KEPT_OBSERVATIONS + 1)
    _with_care(tmp_path, use)


def test_what_ended_longer_ago_is_deleted_said_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def use(care: Care) -> None:
        with caplog.at_level(logging.INFO):
            await care.retention.sweep()
        assert care.runs == ["new"]
        assert care.counted("runs_deleted_total", "age") == 1
        assert care.counted("items_removed_total", "age") == 6

    _fill(tmp_path, {"old": 31, "new": 29})
    _with_care(tmp_path, use, retain_days=30)
    (said,) = [record.getMessage() for record in caplog.records if "deleted" in record.getMessage()]
    assert said.startswith("deleted run old with its 6 items, last heard of at ")
    assert said.endswith("nothing was heard of it for 30 days")


@pytest.mark.parametrize("heard_days_ago", [0, 40])
def test_what_is_under_way_stays_whatever_its_age(heard_days_ago: float, tmp_path: Path) -> None:
    """Also where only this service did not run: after its start, nobody could be heard of yet."""

    async def use(care: Care) -> None:
        await care.retention.sweep()
        assert care.runs == ["run"]

    _fill(tmp_path, {"run": heard_days_ago}, end=False, count=KEPT_OBSERVATIONS + 1)
    _with_care(tmp_path, use, retain_days=0.001, thin_after_days=0.001, retain_gigabytes=1e-6)


def test_what_was_lost_is_deleted_when_senders_had_time_to_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def use(care: Care) -> None:
        await care.retention.sweep()
        assert care.runs == []

    _fill(tmp_path, {"run": 40}, end=False)
    monkeypatch.setattr(module, "_RETURN_SECONDS", 0.0)
    _with_care(tmp_path, use, retain_days=30)


def test_a_run_that_is_resumed_meanwhile_stays(tmp_path: Path) -> None:
    async def use(care: Care) -> None:
        await care.recorder.register(registration("run", attempt=2, resumed_from_step=3))
        await care.retention.sweep()
        assert care.runs == ["run"]

    _fill(tmp_path, {"run": 40})
    _with_care(tmp_path, use, retain_days=30)


def test_of_what_ended_long_ago_some_observations_stay(tmp_path: Path) -> None:
    async def use(care: Care) -> None:
        before = care.recorder.live.get("run")
        await care.retention.sweep()
        after = care.recorder.live.get("run")
        history = await care.recorder.history("run", START, 10_000, "observation")
        assert before is not None
        assert after is not None
        assert after.observations == len(history) <= KEPT_OBSERVATIONS
        assert len(history) > KEPT_OBSERVATIONS // 3
        assert after.latest == before.latest
        assert (after.totals, after.finish, after.version > before.version) == (before.totals, before.finish, True)
        assert care.counted("items_removed_total", "thinned") == before.observations - after.observations
        assert after.thinned == Thinned(2, KEPT_OBSERVATIONS + 500, before.observations - after.observations)
        await care.retention.sweep()
        assert care.recorder.live.get("run") is after

    _fill(tmp_path, {"run": 8}, count=KEPT_OBSERVATIONS + 500)
    _with_care(tmp_path, use, thin_after_days=7)


def test_one_that_is_resumed_while_it_is_thinned_is_thinned_when_it_has_ended_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    thin_more, pages = Store.thin_more, 0

    async def use(care: Care) -> None:
        def resumed_after_a_page(store: Store, *arguments: Any) -> Any:
            nonlocal pages
            if (pages := pages + 1) == 2:
                care.recorder._register(registration("run", attempt=2, resumed_from_step=600), 0.0)
            return thin_more(store, *arguments)

        monkeypatch.setattr(Store, "thin_more", resumed_after_a_page)
        await care.retention.sweep()
        assert pages == 2
        await record(care.recorder, care.recorder.open("run", 2), [finished(1, step=600)])
        while (run := care.recorder.live.get("run")) and run.observations > 100:
            await care.retention.sweep()
        assert run is not None

    monkeypatch.setattr(module, "KEPT_OBSERVATIONS", 100)
    _fill(tmp_path, {"run": 8}, count=600)
    _with_care(tmp_path, use, thin_after_days=1e-9)


def test_above_the_bound_runs_are_thinned_before_one_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def use(care: Care) -> None:
        await care.retention.sweep()
        assert care.runs == ["a", "b"]
        assert [run.observations <= 100 for run in care.recorder.live.all()] == [True, True]
        assert await care.recorder.care(lambda store: store.used_bytes()) <= bound

    monkeypatch.setattr(module, "KEPT_OBSERVATIONS", 100)
    _fill(tmp_path, {"a": 2, "b": 1}, count=600)
    store = Store(_url(tmp_path))
    bound = (store.used_bytes() or 0) // 2
    store.close()
    _with_care(tmp_path, use, retain_gigabytes=bound / 1e9)


def test_above_the_bound_the_longest_silent_goes_first(store_url: str) -> None:
    async def use(care: Care) -> None:
        await care.retention.sweep()
        assert await care.recorder.care(_used_bytes) <= bound
        assert care.runs == ["c", "d"]

    runs = {"b": 4, "a": 3, "c": 2, "d": 1}
    _fill(store_url, runs, count=150)
    store = Store(store_url)
    bound = int(_used_bytes(store) * 0.6)
    store.close()
    _with_care(store_url, use, retain_gigabytes=bound / 1e9)


def _used_bytes(store: Store) -> int:
    used = store.used_bytes()
    return sum(map(store.bytes_of, store.run_ids())) if used is None else used


def test_where_only_runs_under_way_are_left_that_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def use(care: Care) -> None:
        await care.recorder.register(registration("run"))
        for _ in range(2):
            await care.retention.sweep()
        assert care.runs == ["run"]

    _with_care(tmp_path, use, retain_gigabytes=1e-6)
    assert len([1 for record in caplog.records if "runs that are or may be under way" in record.getMessage()]) == 1


def test_after_the_clock_was_set_nothing_is_removed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def use(care: Care) -> None:
        care.clock += 365 * DAY
        await care.retention.sweep()
        assert care.runs == ["run"]

    _fill(tmp_path, {"run": 40})
    _with_care(tmp_path, use, retain_days=30)
    assert "the clock of this machine was set by +31536000 seconds" in caplog.text


def test_a_deletion_that_was_cut_short_is_finished(tmp_path: Path) -> None:
    async def use(care: Care) -> None:
        assert care.runs == ["other"]
        await care.retention.sweep()
        assert await care.recorder.care(lambda store: store.deletions()) == []

    _fill(tmp_path, {"run": 1, "other": 1}, count=120)
    store = Store(_url(tmp_path))
    store.delete("run", NOW)
    store.close()
    _with_care(tmp_path, use)


def test_what_a_sender_still_has_of_it_is_kept_from_there_on(tmp_path: Path) -> None:
    async def use(care: Care) -> None:
        await care.retention.sweep()
        assert care.runs == []
        assert await care.recorder.register(registration("run")) == 6
        attempt = care.recorder.open("run", 1)
        outcomes = await record(care.recorder, attempt, [observed(5), observed(7)], pb.Heartbeat())
        assert [(each.sequence, each.rejected) for each in outcomes] == [(5, None), (7, None)]
        run = care.recorder.live.get("run")
        assert run is not None
        assert (run.observations, run.step) == (1, 7)

    _fill(tmp_path, {"run": 40})
    _with_care(tmp_path, use, retain_days=30)


def test_where_the_store_fails_the_run_is_there_or_gone_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def use(care: Care) -> None:
        with monkeypatch.context() as patched:
            patched.setattr("monitor.service.storage.queries.deletion.begin", _fail)
            with pytest.raises(StoreError):
                await care.retention.sweep()
        assert care.runs == ["run"]
        await care.retention.sweep()
        assert care.runs == []

    def _fail(*_arguments: object) -> None:
        raise StoreError("the disk is full")

    _fill(tmp_path, {"run": 40})
    _with_care(tmp_path, use, retain_days=30)


def test_acknowledgements_come_in_between(tmp_path: Path) -> None:
    async def use(care: Care) -> None:
        await care.recorder.register(registration("live"))
        attempt = care.recorder.open("live", 1)
        sweeping = asyncio.create_task(care.retention.sweep())
        acknowledged = 0
        while not sweeping.done():
            acknowledged += 1
            await record(care.recorder, attempt, [observed(acknowledged)])
        await sweeping
        assert care.runs == ["live"]
        # One at least for each of the transactions that took the items and rows of the run.
        assert acknowledged > 2000 // 50

    _fill(tmp_path, {"run": 40}, count=2000)
    _with_care(tmp_path, use, retain_days=30)
