from __future__ import annotations

import random

import pytest

from monitor.service.errors import InvalidRegistrationError, UnstorableItemError
from monitor.service.quantities.arrays import Arrays
from monitor.service.quantities.counts import add_up
from monitor.service.quantities.transfer import Between, Transfer, TransferSizes
from monitor.service.recording.items import ItemCheck
from monitor.service.recording.received import Received
from monitor.service.recording.registration import check_registration
from monitor.service.settings import ServiceSettings
from monitor.wire import monitor_pb2 as pb
from tests.service.messages import changed, observation, observed, registration
from tests.service.running import Client


def _transfer(described: pb.Registration, seen: pb.Observation) -> Transfer | None:
    (transfer,) = TransferSizes(described).transfers_of(Arrays.of(seen))
    return transfer


def sparse_bytes(of_groups: list[tuple[int, int]]) -> int | None:
    """Of k changes of N weights in each group."""
    described = registration(groups=[pb.Group(module="m", weights=n) for _, n in of_groups])
    seen = pb.Observation(step=1, step_changed=[k for k, _ in of_groups])
    transfer = _transfer(described, seen)
    return None if transfer is None else transfer.sparse_bytes


def test_a_sparse_transfer_takes_the_way_of_least_bytes_in_each_group() -> None:
    generator = random.Random(0)
    of_groups = [(generator.randint(0, n), n) for n in (generator.randint(1, 10**6) for _ in range(200))]
    of_groups += [(0, 0), (0, 7), (7, 7), (2**33, 2**34)]
    # Bits of a mask fill whole bytes.
    expected = sum(min(6 * k, (n + 7) // 8 + 2 * k, 2 * n) for k, n in of_groups)
    assert sparse_bytes(of_groups) == expected
    assert [sparse_bytes([(k, 3200)]) for k in (0, 100, 101, 3000, 3001)] == [0, 600, 602, 6400, 6400]


@pytest.mark.parametrize(("changed", "way"), [(99, "indices"), (101, "bitmask"), (2999, "bitmask"), (3001, "dense")])
def test_the_crossovers_are_where_the_panel_draws_them(changed: int, way: str) -> None:
    """1/32 and 15/16 of the weights."""
    weights = 3200
    ways = {"indices": 6 * changed, "bitmask": weights // 8 + 2 * changed, "dense": 2 * weights}
    assert sparse_bytes([(changed, weights)]) == ways[way] == min(ways.values())


def test_a_sync_is_between_the_weights_that_were_handed_over() -> None:
    sync = pb.Synchronisation(step=8, previous_step=4, changed=[0, 7, 5])
    transfer = _transfer(registration(), observation(9, synchronisation=sync))
    assert transfer is not None
    assert (transfer.between, transfer.step, transfer.steps, transfer.changed) == (Between.SYNCS, 8, 4, 12)
    assert transfer.sparse_bytes == 6 * 7 + 6 * 5
    # Frozen weights are handed over, too.
    assert transfer.dense_bytes == 2 * 2000


def test_without_a_sync_it_is_between_observations_and_called_so() -> None:
    """Of trainers that have none, and of senders from before they were told."""
    seen = changed(observation(9, stride=3), synchronisation=None)
    transfer = _transfer(registration(), seen)
    assert transfer is not None
    assert (transfer.between, transfer.step, transfer.steps) == (Between.OBSERVATIONS, 9, 3)
    assert transfer.changed == 10


def test_what_says_nothing_of_changes_makes_no_transfer() -> None:
    assert _transfer(registration(), pb.Observation(step=1, changed=[1, 2, 3])) is None
    assert add_up(pb.Observation(), registration()).changed_ratio is None


@pytest.mark.parametrize(
    ("described", "seen"),
    [
        (registration(visible_dtype="float32"), observation()),
        (registration(), observation(trained=[0, 500, 400], unmeasured=[0, 100, 0])),
    ],
    ids=["32-bit values", "unmeasured weights"],
)
def test_bytes_that_cannot_be_known_are_not_told(described: pb.Registration, seen: pb.Observation) -> None:
    transfer = _transfer(described, seen)
    assert transfer is not None
    assert (transfer.sparse_bytes, transfer.dense_bytes) == (None, None)
    assert transfer.changed == 12


def test_the_changed_ratio_is_of_the_trained_weights() -> None:
    assert add_up(observation(), registration()).changed_ratio == 12 / 1000


def test_the_relative_norm_is_that_of_the_sums_of_squares() -> None:
    assert add_up(observation(), registration()).relative_norm == pytest.approx(5 / 50)
    # What started to train during the attempt, or was lost, has its base counted anew.
    later = observation(base_squared_norm=[100, 900, 0])
    assert add_up(later, registration()).relative_norm == pytest.approx(5 / 1000**0.5)


def test_senders_that_do_not_know_the_base_have_no_relative_norm() -> None:
    assert add_up(observation(), registration(base_squared_norm=[])).relative_norm is None
    assert add_up(observation(), registration(base_squared_norm=[0, 0, 0])).relative_norm is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"synchronisation": pb.Synchronisation(step=2, previous_step=1)}, "step 2 after one at step 1 .* with step 1"),
        ({"synchronisation": pb.Synchronisation(step=1, previous_step=1)}, "expected steps that rise"),
        ({"synchronisation": pb.Synchronisation(step=1, changed=[1, 1])}, "has 2 entries; expected one per group"),
        (
            {"synchronisation": pb.Synchronisation(step=1, changed=[1, 601, 1])},
            "of group 1 is 601; expected at most 60",
        ),
        ({"base_squared_norm": [1, 2]}, "base_squared_norm has 2 entries; expected one per group"),
        ({"base_squared_norm": [1, 2, float("inf")]}, "base_squared_norm holds inf"),
    ],
)
def test_what_contradicts_itself_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UnstorableItemError, match=message):
        ItemCheck(registration(), ServiceSettings()).check(Received(observed(1, **changes)))


def test_a_sync_of_weights_that_are_lost_since_is_stored() -> None:
    sync = pb.Synchronisation(step=1, changed=[0, 600, 400])
    lost = observed(2, trained=[0, 0, 400], unmeasured=[0, 600, 0], synchronisation=sync)
    for name in ("changed", "newly_changed", "reverted", "step_changed", "touched", "hidden"):
        lost = changed(lost, observation=changed(lost.observation, **{name: [0, 0, 1]}))
    ItemCheck(registration(), ServiceSettings()).check(Received(lost))


@pytest.mark.parametrize("norm", [[1.0, 2.0], [1.0, 2.0, float("nan")], [1.0, 2.0, -1.0]])
def test_a_base_norm_that_is_none_is_refused(norm: list[float]) -> None:
    with pytest.raises(InvalidRegistrationError, match="base_squared_norm"):
        check_registration(registration(base_squared_norm=norm), ServiceSettings())


def test_attempts_may_differ_in_the_last_digit_of_the_base_norm(client: Client, run_id: str) -> None:
    """As on another number of processes, or after one that did not say it."""
    client.register(registration(run_id, base_squared_norm=[]))
    client.register(registration(run_id, attempt=2, resumed_from_step=1))
    client.register(registration(run_id, attempt=3, resumed_from_step=1, base_squared_norm=[0, 900.0000001, 1600]))
    client.send(run_id, [observed(1, step=2)], attempt=3)
    assert client.metric("run_base_norm", run=run_id) == pytest.approx(50)


def test_sync_and_norm_are_in_metrics_and_history(client: Client, run_id: str) -> None:
    client.register(registration(run_id))
    client.send(run_id, [observed(1), changed(observed(2), observation=observation(2, synchronisation=None))])
    between = {"run": run_id, "between": "observations"}
    assert client.metric("run_sync_changed_weights", **between) == 10
    assert client.metric("run_sync_changed_weights", run=run_id, between="syncs") is None
    assert client.metric("run_sync_sparse_bytes", **between) == 60
    assert client.metric("run_sync_dense_bytes", **between) == 4000
    assert client.metric("run_base_norm", run=run_id) == pytest.approx(50)
    first, second = client.http.get(f"/api/runs/{run_id}/history").json()["observations"]
    assert first["synchronisation"] == {
        "between": "syncs",
        "step": 1,
        "previous_step": 0,
        "changed": 12,
        "changed_ratio": 0.012,
        "sparse_bytes": 72,
        "dense_bytes": 4000,
    }
    assert second["synchronisation"]["between"] == "observations"
    assert second["relative_norm"] == pytest.approx(0.1)
    run = client.http.get(f"/api/runs/{run_id}").json()
    assert [group["sync_changed"] for group in run["groups"]] == [None, None, None]
    assert [group["relative_norm"] for group in run["groups"]] == pytest.approx([None, 0.1, 0.1])
    page = client.http.get(f"/runs/{run_id}").text
    assert "changed ratio between observations</dt><dd>1 %" in page
    assert "60 bytes sparse, 4 000 dense" in page
