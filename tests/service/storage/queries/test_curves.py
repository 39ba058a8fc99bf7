"""Curves that are read thinned are those of all observations, cut into buckets."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence

import pytest

from monitor.service.storage.queries.curves import Curve, Range
from monitor.service.storage.store import Store
from monitor.wire import monitor_pb2 as pb
from tests.service.messages import finished, logged, observed, registration
from tests.service.storing import add

NOW, WEIGHTS, TRAINED = 1.75e9, 2000, 1000
STEPS = 240


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    store = Store(store_url)
    yield store
    store.close()


def _items() -> list[pb.Item]:
    """Observations at uneven steps, and a log beside most of them."""
    chance = random.Random(7)
    items: list[pb.Item] = []
    for step in sorted(chance.sample(range(1, STEPS), 150)):
        changed, moved = chance.randrange(600), chance.randrange(400)
        items.append(observed(len(items) + 1, step=step, changed=[0, changed, 0], step_changed=[0, moved, 1]))
        if chance.random() < 0.8:
            items.append(logged(len(items) + 1, step=step, loss=chance.gauss(0, 3)))
    return [*items, finished(len(items) + 1, step=STEPS)]


def _by_hand(points: Sequence[tuple[int, float]], steps: Range) -> Curve:
    """The same from the definition: walk the points, and keep of each bucket what is asked for."""
    curve = Curve()
    buckets: dict[int, list[tuple[int, float]]] = {}
    for step, value in points:
        if steps.first <= step <= steps.last:
            buckets.setdefault((step - steps.first) // steps.width, []).append((step, value))
    for bucket in buckets.values():
        values = [None if math.isnan(value) else value for _, value in bucket]
        numbers = [value for value in values if value is not None]
        least, most = min(numbers, default=None), max(numbers, default=None)
        curve.put(bucket[-1][0], 1.7e9 + bucket[-1][0], least, most, values[-1])
    return curve


CURVES: dict[str, Callable[[pb.Item], float | None]] = {
    "changed": lambda item: sum(item.observation.changed) if item.HasField("observation") else None,
    "cumulative_sparsity": lambda item: (
        1.0 - sum(item.observation.changed) / TRAINED if item.HasField("observation") else None
    ),
    "whole_model_cumulative_sparsity": lambda item: (
        1.0 - sum(item.observation.changed) / WEIGHTS if item.HasField("observation") else None
    ),
    "step_sparsity": lambda item: (
        1.0 - sum(item.observation.step_changed) / TRAINED if item.HasField("observation") else None
    ),
    "transient": lambda item: (
        sum(item.observation.touched) - sum(item.observation.changed) if item.HasField("observation") else None
    ),
    "update_norm": lambda item: math.sqrt(sum(item.observation.squared_norm)) if item.HasField("observation") else None,
    "overlap_o1:other seed": lambda item: (
        15 / (sum(item.observation.changed) or math.nan) if item.HasField("observation") else None
    ),
    "cumulative_sparsity_at:1e-05": lambda item: 1 - 20 / TRAINED if item.HasField("observation") else None,
    "metric:loss": lambda item: item.training_log.metrics["loss"] if item.HasField("training_log") else None,
}


@pytest.mark.parametrize("points", [1, 7, 40, 1000])
def test_every_curve_keeps_minimum_maximum_and_last_of_each_bucket(store: Store, points: int) -> None:
    items = _items()
    store.register(registration(), NOW, max_runs=10)
    add(store, "run", 1, items, None, NOW)
    first, last = store.extent("run") or (0, 0)
    for steps in (Range.of(first, last, points), Range.of(50, 99, points)):
        found = store.curves("run", list(CURVES), steps, WEIGHTS)
        for name, value in CURVES.items():
            wanted = [(_step(item), each) for item in items if (each := value(item)) is not None]
            assert found[name] == _by_hand(wanted, steps), name


def _step(item: pb.Item) -> int:
    return item.observation.step if item.HasField("observation") else item.training_log.step


def test_a_range_has_at_most_so_many_buckets() -> None:
    for steps in range(1, 50):
        for points in range(1, 12):
            width = Range.of(10, 9 + steps, points).width
            assert math.ceil(steps / width) <= points
            assert width == 1 or math.ceil(steps / (width - 1)) > points, "no wider than it has to be"


def test_what_a_later_attempt_superseded_is_in_no_curve(store: Store) -> None:
    store.register(registration(), NOW, max_runs=10)
    add(store, "run", 1, [observed(n, changed=[0, n, 0]) for n in range(1, 11)], None, NOW)
    store.register(registration(attempt=2, resumed_from_step=6), NOW, max_runs=10)
    add(store, "run", 2, [observed(1, step=7, changed=[0, 99, 0]), logged(2, step=7, loss=2)], None, NOW)
    assert store.extent("run") == (1, 7)
    found = store.curves("run", ["changed", "metric:loss"], Range.of(1, 10, 100), WEIGHTS)
    assert found["changed"].last == [1, 2, 3, 4, 5, 6, 99]
    assert found["metric:loss"].step == [7]


def test_of_one_step_that_two_attempts_observed_the_later_counts(store: Store) -> None:
    store.register(registration(), NOW, max_runs=10)
    add(store, "run", 1, [observed(1, step=5, changed=[0, 1, 0])], None, NOW)
    store.register(registration(attempt=2, resumed_from_step=5), NOW, max_runs=10)
    add(store, "run", 2, [observed(1, step=5, changed=[0, 2, 0])], None, NOW)
    curve = store.curves("run", ["changed"], Range.of(1, 10, 100), WEIGHTS)["changed"]
    assert (curve.step, curve.minimum, curve.maximum, curve.last) == ([5], [1], [2], [2])


def test_a_number_that_is_stored_already_is_in_the_curves_once(store: Store) -> None:
    store.register(registration(), NOW, max_runs=10)
    for _ in range(2):
        add(store, "run", 1, [observed(1, changed=[0, 3, 0]), observed(1, changed=[0, 4, 0])], None, NOW)
    assert store.curves("run", ["changed"], Range.of(1, 1, 1), WEIGHTS)["changed"].last == [3]


def test_what_is_no_number_leaves_a_gap_and_hides_no_other_value(store: Store) -> None:
    store.register(registration(), NOW, max_runs=10)
    values = [1.0, math.nan, math.inf, 4.0, math.nan]
    add(store, "run", 1, [logged(n, loss=value) for n, value in enumerate(values, 1)], None, NOW)
    each = store.curves("run", ["metric:loss"], Range.of(1, 5, 5), WEIGHTS)["metric:loss"]
    assert each.last == [1, None, math.inf, 4, None]
    thinned = store.curves("run", ["metric:loss"], Range.of(1, 2, 1), WEIGHTS)["metric:loss"]
    assert (thinned.minimum, thinned.maximum, thinned.last) == ([1], [1], [None])


def test_what_was_never_measured_has_no_curve(store: Store) -> None:
    store.register(registration(), NOW, max_runs=10)
    add(store, "run", 1, [observed(1, hidden=[], references=[])], None, NOW)
    assert store.curves("run", ["hidden", "overlap_o1:other seed", "metric:loss"], Range.of(1, 1, 1), WEIGHTS) == {}


def test_a_run_of_which_nothing_is_known_yet_has_no_extent(store: Store) -> None:
    store.register(registration(), NOW, max_runs=10)
    assert store.extent("run") is None


def test_groups_are_those_of_the_last_observation_in_each_bucket(store: Store) -> None:
    store.register(registration(), NOW, max_runs=10)
    items = [observed(n, changed=[0, n, 0]) for n in range(1, 1201)]
    add(store, "run", 1, items, None, NOW)
    for points, expected in ((3, [400, 800, 1200]), (5000, list(range(1, 1201)))):
        found = store.items_at("run", store.last_observations("run", Range.of(1, 1200, points)))
        assert [each.item.observation.step for each in found] == expected
        assert [each.item.observation.changed[1] for each in found] == expected


def test_the_first_and_the_last_step_there_can_be_are_one_curve(store: Store) -> None:
    store.register(registration(), NOW, max_runs=10)
    sync = {"synchronisation": None}
    add(store, "run", 1, [observed(1, step=0, **sync), observed(2, step=2**63 - 1, **sync)], None, NOW)
    everything = Range.of(0, 2**63 - 1, 1)
    assert store.curves("run", ["changed"], everything, WEIGHTS)["changed"].step[-1] == 2**63 - 1
    assert store.last_observations("run", everything)[-1].step == 2**63 - 1
