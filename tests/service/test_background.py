from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest

from monitor.service import background
from monitor.service.access import gate
from monitor.service.access.gate import Gate
from monitor.service.background import in_background
from monitor.service.care.retention import Retention
from tests.eventually import eventually
from tests.service.breaking import break_once
from tests.service.running import service_in_thread

WHAT = "looking for what is new"
MEANWHILE = "nothing new is known"


def test_it_goes_on_while_the_context_is_open_and_has_ended_after_it() -> None:
    async def main() -> list[str]:
        done: list[str] = []
        begun = asyncio.Event()

        async def work() -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                # What takes a moment at the end is waited for.
                await asyncio.sleep(0)
                done.append("ended")

        async with in_background(work, WHAT, meanwhile=MEANWHILE, count_failure=print):
            await begun.wait()
            done.append("inside")
        return done

    assert asyncio.run(main()) == ["inside", "ended"]


def failing(
    errors: list[Exception], tries: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[Callable[[], Coroutine[None, None, None]], asyncio.Event]:
    """Work that fails with one error after another, the last of them again and again, and what says how often."""
    monkeypatch.setattr(background, "_AGAIN_SECONDS", 0.01)
    left, enough = iter(range(tries)), asyncio.Event()

    async def work() -> None:
        if (number := next(left, None)) is None:
            enough.set()
            await asyncio.Event().wait()
        raise errors[min(number or 0, len(errors) - 1)]

    return work, enough


def test_what_fails_by_itself_is_said_at_once_and_begins_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[int] = []

    async def main() -> None:
        work, enough = failing([RuntimeError("broken"), RuntimeError("otherwise")], 5, monkeypatch)
        async with in_background(work, WHAT, meanwhile=MEANWHILE, count_failure=lambda: counted.append(1)):
            await asyncio.wait_for(enough.wait(), 60)

    asyncio.run(main())
    assert len(counted) == 5
    # Not each time.
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == ["broken", "otherwise"]
    assert {record.levelname for record in caplog.records} == {"ERROR"}
    assert f"{WHAT} failed, and is tried again every 0.01 seconds. Until it succeeds, {MEANWHILE}." in caplog.text
    assert "restart it if that lasts" in caplog.text


def test_what_goes_on_failing_is_said_again(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "_SAID_AGAIN_SECONDS", 0.0)

    async def main() -> None:
        work, enough = failing([RuntimeError("broken")], 3, monkeypatch)
        async with in_background(work, WHAT, meanwhile=MEANWHILE, count_failure=print):
            await asyncio.wait_for(enough.wait(), 60)

    asyncio.run(main())
    assert len(caplog.records) == 3


@pytest.mark.parametrize(
    ("work", "of", "looks", "meanwhile"),
    [
        ("tokens", Gate, "_refresh_if_possible", "those that were known last count"),
        ("retention", Retention, "sweep", "nothing is removed from it, and it grows"),
    ],
)
def test_a_service_shows_an_error_of_its_own_and_does_again_what_failed(
    work: str,
    of: type,
    looks: str,
    meanwhile: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(gate, "_REFRESH_SECONDS", 0.01)
    monkeypatch.setattr(background, "_AGAIN_SECONDS", 0.01)
    tries = break_once(of, looks, monkeypatch)
    with service_in_thread(tmp_path / "store.db") as client:
        eventually(lambda: client.metric("background_errors_total", work=work) == 1)
        eventually(lambda: min(tries.values()) > 1)
        assert client.http.get("/readyz").status_code == 200
    records = [record for record in caplog.records if record.levelname == "ERROR"]
    assert all(f"Until it succeeds, {meanwhile}" in record.getMessage() for record in records)
    assert "RuntimeError: broken" in caplog.text
