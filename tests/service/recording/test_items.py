from __future__ import annotations

from typing import Any, cast

import pytest

from monitor.service.errors import UnstorableItemError
from monitor.service.recording.items import ItemCheck
from monitor.service.recording.received import Received
from monitor.service.settings import ServiceSettings
from monitor.wire import monitor_pb2 as pb
from tests.service.messages import finished, logged, observed, registration

SETTINGS = ServiceSettings(max_training_metrics=2, max_label_length=20, max_request_bytes=4096)
CHECK = ItemCheck(registration(), SETTINGS)


@pytest.mark.parametrize(
    "item",
    [
        observed(1),
        observed(2**63 - 1, step=2**63 - 1),
        pb.Item(sequence=1, observation=pb.Observation(step=1, observed_at=1)),
        observed(1, changed=[1000, 600, 400]),
        observed(1, trained=[1000, 600, 400], changed=[1000, 600, 400]),
        observed(1, trained=[0, 300, 200], unmeasured=[1000, 300, 200]),
        observed(1, changed_at=[], references=[], squared_norm=[], max_abs=[]),
        observed(1, changed_at=[pb.Counts(), pb.Counts(weights=[1, 2, 3])]),
        observed(1, references=[pb.ReferenceCounts()]),
        logged(1, loss=float("nan"), reward=float("-inf")),
        finished(1),
        finished(1, reason="out of memory"),
    ],
)
def test_what_fits_the_registration_is_accepted(item: pb.Item) -> None:
    CHECK.check(Received(item))


COUNTS = ["changed", "newly_changed", "reverted", "step_changed", "touched", "hidden", "non_finite", "unmeasured"]


@pytest.mark.parametrize("name", COUNTS)
def test_counts_have_one_entry_per_group(name: str) -> None:
    with pytest.raises(UnstorableItemError, match=f"{name} has 2 entries; expected one per group .*, 3"):
        CHECK.check(Received(observed(1, **{name: [1, 1]})))


@pytest.mark.parametrize("name", COUNTS)
def test_no_group_has_more_changed_weights_than_weights(name: str) -> None:
    with pytest.raises(UnstorableItemError, match=f"{name} of group 1 is 601; expected at most 600"):
        CHECK.check(Received(observed(1, **{name: [1, 601, 1]})))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"changed_at": [pb.Counts(weights=[1, 1, 1])]}, "changed_at has 1 entries; expected one per tolerance .*, 2"),
        ({"changed_at": [pb.Counts(), pb.Counts(weights=[1])]}, "changed_at.* has 1 entries"),
        ({"changed_at": [pb.Counts(), pb.Counts(weights=[1, 1, 401])]}, r"changed_at\[0.0001\] of group 2 is 401"),
        ({"references": [pb.ReferenceCounts()] * 2}, "references has 2 entries; expected one per reference .*, 1"),
        ({"references": [pb.ReferenceCounts(intersection=[1])]}, "intersection with 'other seed' has 1 entries"),
        ({"references": [pb.ReferenceCounts(intersection=[0, 61, 0])]}, "group 1 is 61; expected at most 60"),
        ({"references": [pb.ReferenceCounts(expected_intersection=[1])]}, "expected_intersection .*has 1 entries"),
        ({"references": [pb.ReferenceCounts(expected_intersection=[1, 1, float("inf")])]}, "holds inf"),
        ({"squared_norm": [1, 1]}, "squared_norm has 2 entries"),
        ({"squared_norm": [1, 1, float("nan")]}, "squared_norm holds nan"),
        ({"squared_norm": [1, 1, -1]}, "squared_norm holds -1"),
        ({"max_abs": [1]}, "max_abs has 1 entries"),
        ({"max_abs": [1, 1, float("inf")]}, "max_abs holds inf"),
        ({"host_seconds": -1.0}, "host_seconds holds -1"),
        ({"device_seconds": float("nan")}, "device_seconds holds nan"),
        ({"observed_at": float("nan")}, "observed_at nan"),
        ({"observed_at": -1.0}, "observed_at -1"),
        ({"trained": [0, 600]}, "trained has 2 entries; expected one per group .*, 3"),
        ({"trained": [0, 601, 400]}, "trained of group 1 is 601; expected at most 600"),
        ({"trained": [0, 29, 400]}, "changed of group 1 is 30; expected at most 29"),
        ({"step": 2**63}, "step 9223372036854775808 was given"),
    ],
)
def test_an_observation_that_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnstorableItemError, match=message):
        CHECK.check(Received(observed(1, **changes)))


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (observed(0, step=1), "sequence 0"),
        (observed(2**63, step=1), "sequence 9223372036854775808"),
        (pb.Item(sequence=1), "the item is empty"),
        (pb.Item(sequence=1, finish=pb.Finish(finished_at=1)), "outcome 0 was given"),
        (pb.Item(sequence=1, finish=pb.Finish(outcome=cast(Any, 7), finished_at=1)), "outcome 7 was given"),
        (pb.Item(sequence=1, training_log=pb.TrainingLog(logged_at=float("inf"))), "logged_at inf"),
    ],
)
def test_an_item_that_means_nothing_is_refused(item: pb.Item, message: str) -> None:
    with pytest.raises(UnstorableItemError, match=message):
        CHECK.check(Received(item))


@pytest.mark.parametrize(
    ("metrics", "kept", "limits"),
    [
        ({"a": 1, "b": 2}, ["a", "b"], []),
        ({"a": 1, "b": 2, "loss": 3, "learning_rate": 4}, ["learning_rate", "loss"], ["max_training_metrics"]),
        ({"c": 1, "b": 2, "a": 3}, ["a", "b"], ["max_training_metrics"]),
        ({"loss": 1, "x" * 21: 2}, ["loss"], ["max_label_length"]),
        (
            {"x" * 21: 1, "c": 1, "b": 2, "eval_loss": 3},
            ["b", "eval_loss"],
            ["max_label_length", "max_training_metrics"],
        ),
    ],
)
def test_of_a_log_that_is_too_large_what_fits_is_kept(
    metrics: dict[str, float], kept: list[str], limits: list[str]
) -> None:
    item = logged(1, **metrics)
    received = Received(item)
    CHECK.check(received)
    assert CHECK.trim(received) == limits
    assert sorted(item.training_log.metrics) == kept
    assert item.training_log.metrics[kept[0]] == metrics[kept[0]]
    assert pb.Item.FromString(received.content) == item


@pytest.mark.parametrize(
    ("item", "limit"),
    [
        (finished(1, reason="x" * 5000), "max_request_bytes"),
    ],
)
def test_what_is_too_large_is_refused_with_the_option_that_allows_it(item: pb.Item, limit: str) -> None:
    with pytest.raises(UnstorableItemError, match="this service allows") as refused:
        CHECK.check(Received(item))
    assert refused.value.limit == limit
    assert f"--{limit.replace('_', '-')}" in str(refused.value)
