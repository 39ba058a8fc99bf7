from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from monitor.service.recording.recorder import Recorder
from tests.service import running
from tests.service.running import service_in_thread


def test_a_service_that_does_not_end_fails_its_test_and_says_what_it_waits_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, ends = Recorder.close, asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def hangs(self: Recorder) -> None:
        loops.append(asyncio.get_running_loop())
        await ends.wait()
        await real(self)

    monkeypatch.setattr(running, "_END_SECONDS", 1.0)
    monkeypatch.setattr(Recorder, "close", hangs)
    with pytest.raises(AssertionError, match=r"did not end within 1 seconds:(.|\n)*Waiting:(.|\n)*test_running.py:\d+"):  # noqa: SIM117
        with service_in_thread(tmp_path / "store.db"):
            pass
    loops[0].call_soon_threadsafe(ends.set)
