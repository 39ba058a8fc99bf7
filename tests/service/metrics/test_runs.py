from __future__ import annotations

import math
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from monitor.wire import monitor_pb2 as pb
from tests.eventually import eventually
from tests.service.messages import finished, logged, observed, registration, stacked_groups
from tests.service.running import Client, service_in_thread


def _promtool() -> str:
    return shutil.which("promtool") or pytest.skip("promtool is not installed")


def _groups(client: Client, run_id: str) -> int:
    text = client.http.get("/metrics").text
    return len(re.findall(rf'^sparsity_monitor_group_.*run="{run_id}"', text, re.MULTILINE))


def test_promtool_has_nothing_to_say(client: Client, run_id: str) -> None:
    promtool = _promtool()
    client.register(registration(run_id))
    client.send(run_id, [observed(1), logged(2, loss=float("nan")), finished(3)])
    text = client.http.get("/metrics").content
    check = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, check=False, timeout=30)
    assert (check.returncode, check.stdout, check.stderr) == (0, b"", b"")


def _service_url(client: Client) -> list[str]:
    return re.findall(
        r'^sparsity_monitor_service_info\{service_url="(.*)"\} 1.0$', client.http.get("/metrics").text, re.M
    )


def test_metrics_say_where_browsers_find_the_service(start: Callable[..., Client]) -> None:
    client = start(service_url="https://monitor.example/sparsity/")
    assert _service_url(client) == ["https://monitor.example/sparsity"]


@pytest.mark.parametrize(("listens", "found"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "localhost")])
def test_without_a_setting_it_is_found_where_it_listens(
    listens: str, found: str, start: Callable[..., Client], run_id: str
) -> None:
    client = start(http_address=f"{listens}:0", insecure_network=True)
    port = client.listening.http_address.rpartition(":")[2]
    (url,) = _service_url(client)
    assert url == f"http://{found}:{port}"
    client.register(registration(run_id))
    assert client.http.get(f"{url}/runs/{run_id}").status_code == 200


def test_groups_are_exported_with_both_components(client: Client, run_id: str) -> None:
    client.register(registration(run_id))
    client.send(run_id, [observed(1)])
    group = {"run": run_id, "layer": "01", "module": "mlp"}
    assert client.metric("group_weights", **group) == 400
    assert client.metric("group_changed_weights", **group) == 20
    assert client.metric("group_frozen_weights", run=run_id, layer="-", module="embed_tokens") == 1000
    with_reference = {**group, "reference": "other seed"}
    assert client.metric("group_reference_weights", **with_reference) == 40
    assert client.metric("group_reference_intersection_weights", **with_reference) == 6
    assert client.metric("group_reference_expected_intersection_weights", **with_reference) == 2


def test_weights_that_started_to_train_are_frozen_no_more(client: Client, run_id: str) -> None:
    client.register(registration(run_id))
    embedding = {"run": run_id, "layer": "-", "module": "embed_tokens"}
    client.send(run_id, [observed(1)])
    assert (client.metric("group_frozen_weights", **embedding), client.metric("run_frozen_weights", run=run_id)) == (
        1000,
        1000,
    )
    client.send(run_id, [observed(2, trained=[1000, 600, 400], changed=[990, 30, 20])])
    assert (client.metric("group_frozen_weights", **embedding), client.metric("run_frozen_weights", run=run_id)) == (
        0,
        0,
    )


def test_layers_of_different_stacks_are_different_layers(client: Client, run_id: str) -> None:
    client.register(registration(run_id, groups=stacked_groups()))
    client.send(run_id, [observed(1)])
    of_run = re.compile(r'group_changed_weights{.*layer="(.+?)".*} (\S+)')
    lines = (line for line in client.http.get("/metrics").text.splitlines() if f'run="{run_id}"' in line)
    layers = [found.groups() for line in lines if (found := of_run.search(line))]
    assert layers == [("-", "0.0"), ("encoder 00", "30.0"), ("decoder 00", "20.0")]


def test_a_run_of_an_earlier_sender_goes_on_with_names_of_stacks(tmp_path: Path, run_id: str) -> None:
    """Its store, too, was written before there were stacks."""
    before = [pb.Group.FromString(group.SerializeToString()) for group in stacked_groups()]
    for group in before:
        group.ClearField("stack")
    with service_in_thread(tmp_path / "store.db") as client:
        client.register(registration(run_id, groups=before))
        client.send(run_id, [observed(1), observed(2)])
    with service_in_thread(tmp_path / "store.db") as client:
        encoder, decoder = {"run": run_id, "module": "encoder.mlp"}, {"run": run_id, "module": "mlp"}
        assert client.metric("group_changed_weights", layer="00", **encoder) == 30
        assert client.metric("group_changed_weights", layer="00", **decoder) == 20
        client.register(registration(run_id, attempt=2, groups=stacked_groups(), resumed_from_step=1))
        assert client.metric("group_changed_weights", layer="encoder 00", **encoder) == 30
        client.send(run_id, [observed(1, step=2, changed=[0, 31, 21])], attempt=2)
        assert client.metric("group_changed_weights", layer="encoder 00", **encoder) == 31
        assert client.metric("group_changed_weights", layer="decoder 00", **decoder) == 21
        assert client.metric("group_changed_weights", layer="00", **decoder) is None
        assert [(each.attempt, each.item.observation.step) for each in client.history(run_id)] == [(1, 1), (2, 2)]


def test_a_run_is_exported_as_a_whole(client: Client, run_id: str) -> None:
    client.register(registration(run_id, 2, resumed_from_step=3))
    client.send(run_id, [observed(1, step=7, stride=4), logged(2, loss=0.5)], attempt=2)
    expected = {
        "run_weights": 2000,
        "run_frozen_weights": 1000,
        "run_changed_weights": 50,
        "run_newly_changed_weights": 5,
        "run_reverted_weights": 3,
        "run_step_changed_weights": 10,
        "run_touched_weights": 100,
        "run_hidden_weights": 500,
        "run_non_finite_weights": 1,
        "run_update_norm": 5,
        "run_update_max_abs": 0.5,
        "run_step": 7,
        "run_attempt": 2,
        "run_stride_steps": 4,
        "run_host_seconds": 0.001,
        "run_device_seconds": 0.002,
        "run_monitor_bytes": 4000,
        "run_observations": 1,
        "run_last_observation_timestamp_seconds": 1.7e9 + 7,
        "run_started_timestamp_seconds": 1.7e9,
        "run_rolled_up": 0,
    }
    assert {name: client.metric(name, run=run_id) for name in expected} == expected
    assert client.metric("run_changed_at_tolerance_weights", run=run_id, tolerance="1e-05") == 20
    assert client.metric("run_changed_at_tolerance_weights", run=run_id, tolerance="0.0001") == 2
    assert client.metric("run_reference_weights", run=run_id, reference="other seed") == 200
    assert client.metric("run_reference_intersection_weights", run=run_id, reference="other seed") == 15
    assert client.metric("run_reference_expected_intersection_weights", run=run_id, reference="other seed") == 5
    assert client.metric("run_training_metric", run=run_id, metric="loss") == 0.5


def test_a_run_is_described_with_its_criterion_and_the_users_labels(client: Client, run_id: str) -> None:
    client.register(registration(run_id, labels={"data-set": 'a "quoted"\nname'}))
    text = client.http.get("/metrics").text
    info = next(
        sample.labels
        for metric in text_string_to_metric_families(text)
        for sample in metric.samples
        if sample.name == "sparsity_monitor_run_info" and sample.labels["run"] == run_id
    )
    assert info == {
        "run": run_id,
        "name": "a run",
        "model": "an-organisation/a-model",
        "base": "an-organisation/a-model",
        "base_fingerprint": "abc123",
        "base_mode": "device",
        "criterion": "bits",
        "visible_dtype": "bfloat16",
        "stored_dtypes": "bfloat16,float32",
        "label_data_set": 'a "quoted"\nname',
    }


def test_exactly_one_state_holds(client: Client, run_id: str) -> None:
    client.register(registration(run_id))
    client.send(run_id, [finished(1, reason="killed")])
    states = ("running", "stalled", "lost", "finished", "failed")
    assert [client.metric("run_state", run=run_id, state=state) for state in states] == [0, 0, 0, 0, 1]


def test_what_was_not_measured_has_no_series_rather_than_zero(client: Client, run_id: str) -> None:
    client.register(registration(run_id))
    client.send(run_id, [pb.Item(sequence=1, observation=pb.Observation(step=1, changed=[1, 2, 3]))])
    assert client.metric("run_changed_weights", run=run_id) == 6
    for name in ("run_step_changed_weights", "run_touched_weights", "run_hidden_weights", "run_update_norm"):
        assert client.metric(name, run=run_id) is None
    assert client.metric("run_changed_at_tolerance_weights", run=run_id) is None
    assert client.metric("run_reference_intersection_weights", run=run_id) is None
    assert client.metric("group_step_changed_weights", run=run_id) is None


def test_a_run_without_an_observation_has_no_step(client: Client, run_id: str) -> None:
    client.register(registration(run_id))
    assert client.metric("run_step", run=run_id) is None
    assert client.metric("run_changed_weights", run=run_id) is None
    assert client.metric("run_weights", run=run_id) == 2000


def test_a_loss_that_is_no_number_is_shown(client: Client, run_id: str) -> None:
    client.register(registration(run_id))
    client.send(run_id, [logged(1, loss=float("nan"), reward=float("inf"))])
    loss = client.metric("run_training_metric", run=run_id, metric="loss")
    assert loss is not None
    assert math.isnan(loss)
    assert client.metric("run_training_metric", run=run_id, metric="reward") == math.inf


def test_what_an_engine_serves_has_metrics_of_its_own(client: Client, run_id: str) -> None:
    client.register(registration(run_id))
    client.send(run_id, [logged(1, served_differing_groups=0, served_groups=3, served_step=1)])
    # Where no step is found, that of the last time stays; and other logs displace none of it.
    client.send(run_id, [logged(2, served_differing_groups=2, served_groups=3)])
    many = [logged(step, **{f"name-{step}-{each}": each for each in range(200)}) for step in range(3, 10)]
    client.send(run_id, many)
    for name, value in {"differing_groups": 2, "groups": 3, "step": 1}.items():
        assert client.metric(f"run_served_{name}", run=run_id) == value
    assert client.metric("run_training_metric", run=run_id, metric="name-3-0") is None
    assert client.metric("run_training_metric", run=run_id, metric="served_groups") == 3


def test_above_the_budget_the_largest_run_keeps_its_run_level_series(start: Callable[..., Client]) -> None:
    client = start(series_budget=160)
    client.register(registration("small"))
    large = [pb.Group(layer=layer, module="mlp", weights=10) for layer in range(50)]
    client.register(registration("large", groups=large, references=[]))
    client.send("small", [observed(1)])
    assert client.metric("run_rolled_up", run="large") == 1
    assert client.metric("run_rolled_up", run="small") == 0
    assert client.metric("rolled_up_runs") == 1
    assert client.metric("run_weights", run="large") == 500
    assert _groups(client, "large") == 0
    assert _groups(client, "small") == 45
    series = client.metric("series")
    assert series is not None
    assert series <= 160
    assert client.metric("series_budget") == 160


def test_group_series_of_a_finished_run_leave_after_the_grace_period(start: Callable[..., Client]) -> None:
    client = start(finished_grace_seconds=0.5)
    for run_id in ("ends", "goes-on"):
        client.register(registration(run_id))
        client.send(run_id, [observed(1), logged(2, loss=1.5)])
    assert _groups(client, "ends") == 45
    assert client.metric("run_training_metric", run="ends", metric="loss") == 1.5
    client.send("ends", [finished(3)])
    eventually(lambda: _groups(client, "ends") == 0)
    assert client.metric("run_changed_weights", run="ends") == 50
    assert client.metric("run_training_metric", run="ends", metric="loss") is None
    assert client.metric("run_training_metric", run="goes-on", metric="loss") == 1.5
    assert client.metric("run_rolled_up", run="ends") is None
    assert _groups(client, "goes-on") == 45


def test_runs_that_ended_long_ago_take_nothing_of_the_budget(start: Callable[..., Client]) -> None:
    client = start(finished_grace_seconds=0, finished_shown_seconds=0, series_budget=100)
    for number in range(5):
        client.register(registration(f"ended-{number}"))
        client.send(f"ended-{number}", [observed(1), finished(2)])
    client.register(registration("goes-on"))
    client.send("goes-on", [observed(1)])
    assert _groups(client, "goes-on") == 45
    assert client.metric("run_state", run="ended-0", state="finished") is None
    assert client.metric("runs") == 6


def test_a_scrape_has_no_explicit_timestamps(client: Client, run_id: str) -> None:
    client.register(registration(run_id))
    client.send(run_id, [observed(1)])
    samples = [
        sample
        for metric in text_string_to_metric_families(client.http.get("/metrics").text)
        for sample in metric.samples
    ]
    assert [sample for sample in samples if sample.timestamp is not None] == []
    assert [sample for sample in samples if sample.name.endswith("_created")] == []


def test_the_service_says_what_it_is(client: Client) -> None:
    assert client.metric("build_info", protocol_version="1") == 1
    assert client.metric("store_errors_total") == 0
