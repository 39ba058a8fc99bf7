from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, event

from monitor.service.errors import StoreError, UnknownRunError
from monitor.service.metrics.instruments import Instruments
from monitor.service.recording.commits import Outcome
from monitor.service.recording.recorder import Attempt, Recorder
from monitor.service.storage.stored import START
from monitor.wire import monitor_pb2 as pb
from tests.service.messages import logged, observed, registration
from tests.service.running import settings_for
from tests.service.storing import record, store_busy


def _with_recorder(path: Path, use: Callable[[Recorder, Instruments], Awaitable[None]]) -> None:
    async def main() -> None:
        instruments = Instruments()
        recorder = Recorder(settings_for(path / "store.db", max_training_metrics=1), instruments)
        try:
            await use(recorder, instruments)
        finally:
            await recorder.close()

    asyncio.run(asyncio.wait_for(main(), timeout=60))


def _counted(instruments: Instruments, name: str, **labels: str) -> float | None:
    return instruments.registry.get_sample_value(f"sparsity_monitor_{name}", labels)


def test_each_item_gets_its_outcome_and_is_counted(tmp_path: Path) -> None:
    async def use(recorder: Recorder, instruments: Instruments) -> None:
        await recorder.register(registration())
        attempt = recorder.open("run", 1)
        items = [observed(1), observed(2, changed=[1]), observed(3), logged(4, a=1, b=2)]
        outcomes = await record(recorder, attempt, items)
        assert [(outcome.sequence, outcome.rejected is None) for outcome in outcomes] == [
            (1, True),
            (2, False),
            (3, True),
            (4, True),
        ]
        assert await record(recorder, attempt, [observed(3), observed(5)]) == [Outcome(3), Outcome(5)]
        assert _counted(instruments, "items_stored_total") == 4
        assert _counted(instruments, "items_duplicate_total") == 1
        assert _counted(instruments, "items_rejected_total") == 1
        assert _counted(instruments, "limit_hits_total", limit="max_training_metrics") == 1
        assert _counted(instruments, "store_commit_seconds_count") == 2

    _with_recorder(tmp_path, use)


def test_what_was_committed_is_shown_although_its_sender_went_away(tmp_path: Path) -> None:
    async def use(recorder: Recorder, _instruments: Instruments) -> None:
        await recorder.register(registration())
        storing, gone = threading.Event(), threading.Event()

        def wait_for_the_sender_to_go(connection: Connection) -> None:
            if connection.engine.url.database == str(tmp_path / "store.db"):
                storing.set()
                gone.wait(60)

        event.listen(Engine, "commit", wait_for_the_sender_to_go)
        try:
            recording = asyncio.create_task(record(recorder, recorder.open("run", 1), [observed(1)]))
            await asyncio.to_thread(storing.wait, 60)
            recording.cancel()
            with pytest.raises(asyncio.CancelledError):
                await recording
            gone.set()
            assert len(await recorder.history("run", START, 10)) == 1
        finally:
            event.remove(Engine, "commit", wait_for_the_sender_to_go)
        run = recorder.live.get("run")
        assert run is not None
        assert run.step == 1

    _with_recorder(tmp_path, use)


def test_batches_that_wait_are_stored_together_and_each_is_answered_for_itself(tmp_path: Path) -> None:
    async def use(recorder: Recorder, instruments: Instruments) -> None:
        runs = [f"run-{number}" for number in range(5)]
        for run in runs:
            await recorder.register(registration(run))
        with contextlib.closing(sqlite3.connect(tmp_path / "store.db")) as other, other:
            other.execute("DELETE FROM attempts WHERE run_id = 'run-2'")
        before = _counted(instruments, "store_commit_seconds_count") or 0
        batches = [[observed(1), observed(2, changed=[1])], [observed(1)], [observed(1)], [], [observed(7)]]
        with store_busy(recorder):
            brought = [
                asyncio.create_task(record(recorder, recorder.open(run, 1), batch))
                for run, batch in zip(runs, batches, strict=True)
            ]
            await asyncio.sleep(0)
            brought[4].cancel()
            await asyncio.wait(brought[4:])
        first, second, third, fourth, fifth = await asyncio.gather(*brought, return_exceptions=True)
        assert [outcome.rejected is None for outcome in first] == [True, False]
        assert (second, fourth) == ([Outcome(1)], [])
        assert isinstance(third, StoreError)
        assert "attempt 1 of run run-2 was taken out of the store" in str(third)
        assert isinstance(fifth, asyncio.CancelledError)
        # All together, and as one of them cannot be stored, each for itself.
        assert _counted(instruments, "store_commit_seconds_count") == before + 1 + 4
        steps = [recorder.live.get(run).step for run in runs]  # type: ignore[union-attr]
        assert steps == [1, 1, 0, 0, 0]
        assert _counted(instruments, "items_stored_total") == 2
        # What went wrong with one leaves nothing behind for the others.
        assert await record(recorder, recorder.open("run-4", 1), [observed(7)]) == [Outcome(7)]
        assert _counted(instruments, "store_commit_seconds_count") == before + 6

    _with_recorder(tmp_path, use)


def test_what_the_store_did_not_take_is_not_shown(tmp_path: Path) -> None:
    async def use(recorder: Recorder, instruments: Instruments) -> None:
        await recorder.register(registration())
        attempt = recorder.open("run", 1)
        with contextlib.closing(sqlite3.connect(tmp_path / "store.db")) as other:
            other.execute("DROP TABLE items")
        with pytest.raises(StoreError, match="Senders try again"):
            await record(recorder, attempt, [observed(1)])
        run = recorder.live.get("run")
        assert run is not None
        assert run.latest is None
        assert _counted(instruments, "store_errors_total") == 1
        assert _counted(instruments, "items_stored_total") == 0

    _with_recorder(tmp_path, use)


def test_what_was_stored_although_the_store_said_otherwise_is_shown_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def use(recorder: Recorder, _instruments: Instruments) -> None:
        for run in ("run", "other"):
            await recorder.register(registration(run))
        attempt, other = recorder.open("run", 1), recorder.open("other", 1)
        with monkeypatch.context() as patched:
            patched.setattr("monitor.service.storage.sqlite_file.held.HeldFile.confirm", _fail)
            with pytest.raises(StoreError):
                await record(recorder, attempt, [observed(1)])
        # Several that wait bring more of the run, together.
        await _record_together(recorder, {attempt: [observed(1), observed(2)], other: [observed(1)]}, attempt)
        assert _shown(recorder) == {"run": 3, "other": 1}

    _with_recorder(tmp_path, use)


def test_what_was_stored_and_could_not_be_read_back_is_shown_when_it_is_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def use(recorder: Recorder, _instruments: Instruments) -> None:
        for run in ("run", "other"):
            await recorder.register(registration(run))
        attempt, other = recorder.open("run", 1), recorder.open("other", 1)
        with monkeypatch.context() as patched:
            patched.setattr("monitor.service.storage.sqlite_file.held.HeldFile.confirm", _fail)
            with pytest.raises(StoreError):
                await record(recorder, attempt, [observed(1)])
        with monkeypatch.context() as patched:
            patched.setattr("monitor.service.storage.store.Store.run", _fail)
            with store_busy(recorder):
                brought = [asyncio.create_task(record(recorder, each, [observed(2)])) for each in (attempt, other)]
                await asyncio.sleep(0)
            await asyncio.gather(*brought, return_exceptions=True)
        for each in (attempt, other):
            assert await record(recorder, each, [observed(2)]) == [Outcome(2)]
        assert _shown(recorder) == {"run": 2, "other": 1}

    _with_recorder(tmp_path, use)


def _fail(*_arguments: object) -> None:
    raise StoreError("the store is out of reach")


async def _record_together(recorder: Recorder, batches: dict[Attempt, list[pb.Item]], once_more: Attempt) -> None:
    with store_busy(recorder):
        brought = [asyncio.create_task(record(recorder, attempt, batch)) for attempt, batch in batches.items()]
        brought.append(asyncio.create_task(record(recorder, once_more, [observed(3)])))
        await asyncio.sleep(0)
    await asyncio.gather(*brought)


def _shown(recorder: Recorder) -> dict[str, int]:
    return {run.run_id: run.observations for run in recorder.live.all()}


def test_an_attempt_that_never_registered_cannot_be_opened(tmp_path: Path) -> None:
    async def use(recorder: Recorder, _instruments: Instruments) -> None:
        await recorder.register(registration())
        for run_id, attempt in (("run", 2), ("other", 1), ("a\0b", 1)):
            with pytest.raises(UnknownRunError, match="call RegisterRun before Report"):
                recorder.open(run_id, attempt)

    _with_recorder(tmp_path, use)
