"""The small curves of the overview: what they show, and how often the store is asked for them."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from monitor.service.errors import StoreError
from monitor.service.recording.recorder import Recorder
from monitor.service.storage.queries.curves import Curve
from monitor.service.web.page.sparklines import sparkline
from tests.service.messages import observed, registration
from tests.service.running import Client

SAID = re.compile(r'aria-label="cumulative sparsity \(bits, bfloat16\) ([^"]*)"')


def test_a_peak_between_the_points_is_in_the_band() -> None:
    drawn = sparkline(Curve([10, 20], [0, 0], [0.9, 0.2], [0.9, 0.9], [0.9, 0.9]))
    assert drawn is not None
    assert drawn.line == "1.0,2.0 119.0,2.0"
    assert drawn.band == "1.0,2.0 119.0,2.0 119.0,22.0 1.0,2.0"
    assert drawn.said == "from 90.00 % at step 10 to 90.00 % at step 20, between 20.00 % and 90.00 %"


def test_fewer_than_two_numbers_are_no_curve() -> None:
    assert sparkline(Curve([1], [0], [0.5], [0.5], [0.5])) is None
    assert sparkline(Curve([1, 2], [0, 0], [None, 0.5], [None, 0.5], [None, 0.5])) is None


def test_a_run_without_anything_new_is_not_read_again(
    start: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []
    curves = Recorder.curves

    async def counted(self: Recorder, *arguments: object) -> object:
        reads.append(arguments[0])
        return await curves(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Recorder, "curves", counted)
    monkeypatch.setattr("monitor.service.web.page.sparklines._REST", 0)
    client = start()
    client.register(registration())
    client.send("run", [observed(1), observed(2)])
    assert SAID.findall(client.http.get("/").text) == SAID.findall(client.http.get("/").text)
    assert reads == ["run"]
    client.send("run", [observed(3)])
    (said,) = SAID.findall(client.http.get("/").text)
    assert said.startswith("from 95.00 % at step 1 to 95.00 % at step 3")
    assert reads == ["run", "run"]


def test_a_store_that_fails_leaves_the_numbers_in_sight(
    start: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def failing(self: Recorder, run_id: str) -> None:
        raise StoreError("no space left")

    monkeypatch.setattr(Recorder, "extent", failing)
    client = start()
    client.register(registration())
    client.send("run", [observed(1), observed(2)])
    page = client.http.get("/")
    assert page.status_code == 200
    assert "95.00 %" in page.text
    assert SAID.findall(page.text) == []


def test_what_takes_too_long_is_left_for_the_next_answer(
    start: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monitor.service.web.page.sparklines._AT_MOST_SECONDS", 0)
    client = start()
    for run_id in ("one", "other"):
        client.register(registration(run_id))
        client.send(run_id, [observed(1), observed(2)])
    first, second = client.http.get("/").text, client.http.get("/").text
    assert ('data-left="1"' in first, len(SAID.findall(first))) == (True, 1)
    assert ('data-left="0"' in second, len(SAID.findall(second))) == (True, 2)
