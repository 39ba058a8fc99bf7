from __future__ import annotations

from monitor.report.on_the_way import OnTheWay


def test_what_was_sent_is_on_its_way_until_it_is_acknowledged_or_refused() -> None:
    on_the_way = OnTheWay()
    on_the_way.send((1, 2, 5, 6))
    on_the_way.reject(2)
    assert on_the_way.up_to(5) == [1, 5]
    on_the_way.arrive(5)
    assert on_the_way.up_to(9) == [6]


def test_over_a_new_connection_it_is_what_the_service_has_and_what_is_sent_again() -> None:
    """What was lost with the old one, and has left the spool, arrives no more."""
    on_the_way = OnTheWay()
    on_the_way.send((1, 2, 3, 4))
    on_the_way.begin_again([2])
    on_the_way.send((2, 4, 7))
    assert on_the_way.up_to(9) == [2, 4, 7]
