from __future__ import annotations

import random

import pytest

from monitor.service.errors import UnstorableItemError
from monitor.service.quantities.arrays import Arrays, counts_of, exact_sums
from monitor.service.quantities.counts import add_up
from monitor.service.quantities.families import COUNTS
from monitor.service.recording.items import ItemCheck
from monitor.service.recording.received import Received
from monitor.service.settings import ServiceSettings
from monitor.wire import monitor_pb2 as pb
from tests.service.messages import observation, observed, registration

LARGEST = 2**63 - 1
MEASURED = ("changed", "newly_changed", "reverted", "step_changed", "touched", "hidden", "non_finite")


@pytest.mark.parametrize(
    "numbers",
    [
        [],
        [0],
        [2**53 + 1, 2**53 + 3, 1],
        [2**64 - 1],
        [2**63, 2**63],
        [2**64 - 1] * 3,
        [2**64 - 2, 1],
        [random.Random(seed).randrange(2**64) for seed in range(1000)],
    ],
)
def test_sums_are_exact_to_the_integer(numbers: list[int]) -> None:
    assert exact_sums(counts_of([numbers, numbers])) == [sum(numbers)] * 2
    measured = {"changed": numbers, "touched": numbers[::-1]} if numbers else {}
    arrays = Arrays.of(pb.Observation(**measured))
    assert arrays.sums() == [{name: sum(numbers) for name in measured}]


def test_a_model_of_as_many_weights_as_there_may_be_is_counted_to_the_integer() -> None:
    weights = [LARGEST // 3, LARGEST // 3, LARGEST - 2 * (LARGEST // 3)]
    described = registration(groups=[pb.Group(module=f"m{n}", weights=each) for n, each in enumerate(weights)])
    counts = [weights[0] - 1, 2**53 + 1, weights[2]]
    seen = observation(1, **dict.fromkeys(MEASURED, counts), synchronisation=None, references=[], changed_at=[])
    ItemCheck(described, ServiceSettings()).check(Received(pb.Item(sequence=1, observation=seen)))
    totals = add_up(seen, described)
    assert totals.counts == dict.fromkeys(MEASURED, sum(counts))
    assert totals.transfer is not None
    least = sum(min(6 * k, (n + 7) // 8 + 2 * k, 2 * n) for k, n in zip(counts, weights, strict=True))
    assert (totals.transfer.changed, totals.transfer.sparse_bytes) == (sum(counts), least)


def test_one_above_the_largest_number_a_double_tells_apart_is_still_above() -> None:
    described = registration(groups=[pb.Group(module="m", weights=2**53)], references=[])
    item = observed(1, references=[], changed_at=[], synchronisation=None, **{name: [2**53 + 1] for name in MEASURED})
    with pytest.raises(UnstorableItemError, match=f"of group 0 is {2**53 + 1}; expected at most {2**53}"):
        ItemCheck(described, ServiceSettings()).check(Received(item))


def test_arrays_that_are_not_equally_long_are_told_apart() -> None:
    check = ItemCheck(registration(), ServiceSettings())
    with pytest.raises(UnstorableItemError, match="reverted has 2 entries; expected one per group"):
        check.check(Received(observed(1, reverted=[1, 1])))
    for name in COUNTS:
        both = [0, 0, 0, 0] if name == "changed" else [0, 0, 0]
        with pytest.raises(UnstorableItemError, match="entries; expected one per group"):
            check.check(Received(pb.Item(sequence=1, observation=pb.Observation(**{name: [*both, 0]}))))


def test_of_the_counts_the_first_that_is_too_large_is_named() -> None:
    item = observed(1, touched=[0, 601, 0], newly_changed=[0, 0, 401])
    with pytest.raises(UnstorableItemError, match="newly_changed of group 2 is 401; expected at most 400"):
        ItemCheck(registration(), ServiceSettings()).check(Received(item))


def test_an_item_keeps_the_bytes_it_came_in() -> None:
    # Fields of later senders are stored, too.
    content = observed(1).SerializeToString() + b"\xfa\x3f\x03new"
    assert Received(pb.Item.FromString(content), content).content == content
    assert Received(observed(1)).content == observed(1).SerializeToString()
