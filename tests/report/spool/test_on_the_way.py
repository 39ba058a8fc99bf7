from __future__ import annotations

from pathlib import Path

import pytest

from monitor.report.spool import on_the_way
from monitor.report.spool.on_the_way import OnTheWay, new_record, noted


def test_what_was_sent_is_on_its_way_until_it_is_acknowledged_or_refused(tmp_path: Path) -> None:
    sent = OnTheWay(tmp_path)
    sent.send((1, 2, 5, 6))
    sent.reject(2)
    assert sent.up_to(5) == [1, 5]
    sent.arrive(5)
    assert sent.up_to(9) == [6]


def test_over_a_new_connection_it_is_what_the_service_has_and_what_is_sent_again(tmp_path: Path) -> None:
    """What was lost with the old one, and has left the spool, arrives no more."""
    sent = OnTheWay(tmp_path)
    sent.send((1, 2, 3, 4))
    record = new_record(tmp_path, [2])
    sent.begin_again([2], record)
    sent.send((2, 4, 7))
    assert sent.up_to(9) == noted(tmp_path / record) == [2, 4, 7]
    sent.close()


def test_half_a_line_is_not_read_and_nothing_is_noted_after_it(tmp_path: Path) -> None:
    """As a full disk leaves it, or a machine that died: then less was sent, never more."""
    sent = OnTheWay(tmp_path)
    record = tmp_path / new_record(tmp_path, [])
    sent.begin_again([], record.name)
    sent.send((1, 2))
    sent.close()
    with record.open("a") as file:
        file.write("34 5")
    sent.send((345,))
    assert noted(record) == [1, 2]
    assert new_record(tmp_path / "gone", [1]) == ""


def test_a_record_does_not_grow_with_what_has_arrived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_the_way, "_MOST_BYTES", 1000)
    sent = OnTheWay(tmp_path)
    record = tmp_path / new_record(tmp_path, [])
    sent.begin_again([], record.name)
    for number in range(1, 2000):
        sent.send((number,))
        sent.arrive(number - 5)
        assert noted(record)[-5:] == [*range(max(1, number - 4), number + 1)]
    assert record.stat().st_size < 1100
    assert [*tmp_path.iterdir()] == [record]
    sent.close()
