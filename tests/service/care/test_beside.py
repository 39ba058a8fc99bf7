"""Deletion and thinning beside what runs report and people read: nobody waits long, and no part counts as the whole."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from starlette.requests import Request
from starlette.responses import StreamingResponse

from monitor.service.errors import TooManyRunsError
from monitor.service.metrics.instruments import Instruments
from monitor.service.recording.recorder import Recorder
from monitor.service.storage.queries.curves import Range
from monitor.service.storage.queries.thinning import Progress
from monitor.service.storage.store import Store
from monitor.service.storage.stored import Thinned
from monitor.service.web.interface.events import Watchers
from tests.service.messages import finished, observed, registration
from tests.service.running import service_in_thread, settings_for
from tests.service.storing import add, record

NOW = 1.75e9


def _fill(path: Path, count: int, *run_ids: str) -> None:
    store = Store(f"sqlite:///{path / 'store.db'}")
    for run_id in run_ids:
        store.register(registration(run_id), NOW, max_runs=10)
        items = [*(observed(n) for n in range(1, count + 1)), finished(count + 1, step=count)]
        add(store, run_id, 1, items, None, NOW)
    store.close()


def _with_recorder(path: Path, use: Callable[[Recorder], Awaitable[None]], **settings: Any) -> None:
    async def main() -> None:
        recorder = Recorder(settings_for(path / "store.db", **settings), Instruments())
        try:
            await use(recorder)
        finally:
            await recorder.close()

    asyncio.run(asyncio.wait_for(main(), timeout=60))


def _thin(store: Store, run_id: str, keep: int) -> None:
    plan, progress = store.thinning(run_id, store.run(run_id).observations, keep), Progress()
    while progress.after is not None:
        progress = store.thin_more(plan, progress)


def test_while_a_run_that_goes_is_registered_again_others_are_acknowledged(tmp_path: Path) -> None:
    async def use(recorder: Recorder) -> None:
        await recorder.register(registration("other"))
        attempt = recorder.open("other", 1)
        await recorder.care(lambda store: store.delete("run", NOW))
        registering = asyncio.create_task(recorder.register(registration("run")))
        acknowledged = 0
        while not registering.done():
            acknowledged += 1
            await record(recorder, attempt, [observed(acknowledged)])
        assert registering.result() == 1001
        assert acknowledged > 1000 // 50

    _fill(tmp_path, 1000, "run")
    _with_recorder(tmp_path, use)


def test_a_run_whose_deletion_nobody_could_confirm_is_shown_as_it_came_again(tmp_path: Path) -> None:
    async def use(recorder: Recorder) -> None:
        # Decided in the store, and no word of it to the live state.
        await recorder.care(lambda store: store.delete("run", NOW))
        await recorder.register(registration("run"))
        run = recorder.live.get("run")
        assert run is not None
        assert (run.observations, run.latest) == (0, None)

    _fill(tmp_path, 5, "run")
    _with_recorder(tmp_path, use)


def test_a_run_that_goes_takes_no_place_from_a_new_one(tmp_path: Path) -> None:
    async def use(recorder: Recorder) -> None:
        with pytest.raises(TooManyRunsError):
            await recorder.register(registration("new"))
        await recorder.care(lambda store: store.delete("run", NOW))
        assert await recorder.register(registration("new")) == 0

    _fill(tmp_path, 5, "run")
    _with_recorder(tmp_path, use, max_runs=1)


def test_what_is_thinned_while_it_is_read_is_left_out(tmp_path: Path) -> None:
    async def use(recorder: Recorder) -> None:
        steps = []
        async for some in recorder.last_observations("run", Range.of(0, 100, 101)):
            steps += [each.position.step for each in some]
            await recorder.care(lambda store: _thin(store, "run", 5))
        assert steps[:10] == list(range(1, 11))
        assert steps[10:] == [26, 51, 76, 100]

    _fill(tmp_path, 100, "run")
    _with_recorder(tmp_path, use)


def test_of_a_run_that_is_deleted_while_it_is_read_no_part_is_served_as_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history, curves, last = Recorder.history, Recorder.curves, Recorder.last_observations

    async def delete(recorder: Recorder, run_id: str) -> None:
        await recorder.care(lambda store: store.delete(run_id, NOW))
        recorder.live.forget(run_id)

    async def history_then_delete(self: Recorder, run_id: str, *arguments: Any) -> Any:
        found = await history(self, run_id, *arguments)
        await delete(self, run_id)
        return found

    async def curves_then_delete(self: Recorder, run_id: str, *arguments: Any) -> Any:
        found = await curves(self, run_id, *arguments)
        await delete(self, run_id)
        return found

    async def last_then_delete(self: Recorder, run_id: str, steps: Range) -> Any:
        async for some in last(self, run_id, steps):
            yield some
            if self.live.get(run_id) is not None:
                await delete(self, run_id)

    monkeypatch.setattr(Recorder, "history", history_then_delete)
    monkeypatch.setattr(Recorder, "curves", curves_then_delete)
    monkeypatch.setattr(Recorder, "last_observations", last_then_delete)
    _fill(tmp_path, 100, "a", "b", "c", "d", "e", "f", "kept")
    with service_in_thread(tmp_path / "store.db") as client:
        with pytest.raises(grpc.RpcError) as refused:
            client.history("a")
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
        assert "was deleted from the store while it was read: what came is not all of it" in refused.value.details()
        for path in (
            "/api/runs/b/history",
            "/api/v1/runs/c/history",
            "/api/v1/runs/d/groups",
            "/api/v1/runs/e/groups/history",
            "/api/v1/compare?run=kept&run=f",
        ):
            assert client.http.get(path).status_code == 404, path


def test_the_events_of_a_run_end_when_it_is_deleted_and_come_when_it_is_thinned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def use(recorder: Recorder) -> None:
        watchers = Watchers(settings_for(tmp_path / "store.db"), recorder.live, lambda: True)
        request = Request({"type": "http", "method": "GET"})
        events = cast("StreamingResponse", watchers.answer(request, lambda: watchers.of_run("run"))).body_iterator
        first = await anext(aiter(events))
        recorder.live.thinned("run", 2, Thinned(every=2, until_step=5, removed=2))
        assert await anext(aiter(events)) != first
        recorder.live.forget("run")
        assert [event async for event in events] == []

    monkeypatch.setattr("monitor.service.web.interface.events._LOOK_EVERY_SECONDS", 0.01)
    _fill(tmp_path, 5, "run")
    _with_recorder(tmp_path, use)
