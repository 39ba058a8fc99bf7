from __future__ import annotations

from monitor.report.writer.backlog import Backlog


def filled(sizes: int, max_bytes: int, *, committed: int = 0) -> Backlog:
    """A backlog that was given `sizes` items of ten bytes, the first of which were committed."""
    backlog = Backlog(max_bytes)
    for sequence in range(1, sizes + 1):
        backlog.add(sequence, bytes(10), finishes=sequence == sizes)
        if sequence == committed:
            backlog.commit()
    return backlog


def numbers(items: list[tuple[int, bytes]]) -> list[int]:
    return [sequence for sequence, _ in items]


def test_what_is_committed_stays_until_the_service_has_it() -> None:
    backlog = filled(5, 1000, committed=3)
    assert (numbers(backlog.committed()), numbers(backlog.waiting())) == ([1, 2, 3], [4, 5])
    backlog.acknowledge(first_unsent=3)
    assert (numbers(backlog.committed()), numbers(backlog.waiting())) == ([3], [4, 5])
    backlog.commit()
    assert (numbers(backlog.committed()), len(backlog), backlog.last_committed) == ([3, 4, 5], 0, 5)
    backlog.acknowledge(first_unsent=None)
    assert backlog.committed() == []


def test_beyond_the_bound_what_is_on_disk_is_forgotten_first_then_every_second_and_never_the_end() -> None:
    backlog = filled(6, 40, committed=3)
    assert (numbers(backlog.committed()), numbers(backlog.waiting())) == ([3], [4, 5, 6])
    assert backlog.last_forgotten == 2
    assert numbers(filled(6, 40).waiting()) == [1, 3, 5, 6]
    alone = filled(6, 5)
    assert numbers(alone.waiting()) == [6]
    assert alone.is_finished


def test_room_that_the_service_makes_is_used_again() -> None:
    backlog = filled(4, 40, committed=4)
    backlog.acknowledge(first_unsent=None)
    for sequence in range(5, 9):
        backlog.add(sequence, bytes(10), finishes=False)
    assert numbers(backlog.waiting()) == [5, 6, 7, 8]


def test_what_waits_is_to_be_committed_before_it_is_forgotten() -> None:
    backlog = Backlog(40)
    backlog.add(1, bytes(10), finishes=False)
    assert not backlog.is_full
    backlog.add(2, bytes(10), finishes=False)
    assert backlog.is_full
    backlog.commit()
    assert not backlog.is_full
    for sequence in range(3, 9):
        backlog.add(sequence, bytes(10), finishes=False)
    assert backlog.is_full
    backlog.commit()
    assert not backlog.is_full
