from __future__ import annotations

import pytest

from monitor.report.spool.thinning import Kept, kind_of, left_out
from monitor.wire import monitor_pb2 as pb


def some(count: int, series: str = "observations") -> list[Kept]:
    return [Kept((series,), sequence, 10) for sequence in range(1, count + 1)]


def left(items: list[Kept], excess: int) -> list[int]:
    return sorted({item.sequence for item in items} - {item.sequence for item in left_out(items, excess)})


def test_every_second_goes_then_every_second_of_what_is_left() -> None:
    assert left(some(9), 0) == [*range(1, 10)]
    assert left(some(9), 15) == [1, 3, 5, 6, 7, 8, 9]
    assert left(some(9), 40) == [1, 3, 5, 7, 9]
    assert left(some(9), 60) == [1, 5, 9]


def test_what_is_closest_together_goes_first() -> None:
    apart = [Kept(("",), sequence, 10) for sequence in (1, 11, 21, 31, 32, 33, 34, 35)]
    assert left(apart, 30) == [1, 11, 21, 31, 35]


def test_the_ends_go_last_of_all_and_the_newest_never() -> None:
    assert left(some(5), 10**9) == [5]
    assert left([], 10) == []
    two = [*some(3, "a"), *[Kept(("b",), sequence, 10) for sequence in (4, 5, 6)]]
    assert left(two, 30) == [3, 4, 6]


@pytest.mark.parametrize("sequence", [1, 127, 128, 2**21, 2**40, 2**64 - 1])
@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"observation": pb.Observation(step=1, changed=[5] * 1000)}, 2),
        ({"training_log": pb.TrainingLog(step=1)}, 3),
        ({"finish": pb.Finish(step=1)}, 4),
        ({}, 0),
    ],
)
def test_the_kind_is_read_from_the_beginning_of_an_item(sequence: int, fields: dict[str, object], kind: int) -> None:
    item = pb.Item(sequence=sequence, **fields).SerializeToString()
    assert kind_of(item[:12]) == kind_of(item) == kind


@pytest.mark.parametrize("nonsense", [b"", b"\x08", b"a", bytes(30), b"\x08" + b"\xff" * 20])
def test_what_is_no_item_is_of_no_kind(nonsense: bytes) -> None:
    assert kind_of(nonsense) == 0
