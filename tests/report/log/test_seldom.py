from __future__ import annotations

import pytest

from monitor.report.log.seldom import Seldom


def test_the_same_trouble_is_told_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now, told = [100.0], []
    monkeypatch.setattr("monitor.report.log.seldom.time.monotonic", lambda: now[0])
    seldom = Seldom(lambda message, *arguments: told.append(message % arguments))
    for second in range(0, 150, 10):
        now[0] = 100.0 + second
        seldom("at second %d", second)
    assert told == ["at second 0", "at second 60", "at second 120"]
