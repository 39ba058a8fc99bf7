"""Weights that are lost on the way: the service stores what is left, and leaves them out of every ratio."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

from monitor.observe.observer import UpdateObserver
from monitor.report.messages.conversion import observation_message
from monitor.report.messages.registration import registration_message
from monitor.wire import monitor_pb2 as pb
from tests.service.running import Client, service_in_thread


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with service_in_thread(tmp_path_factory.mktemp("service") / "store.db") as client:
        yield client


def _empty(layer: nn.Linear) -> None:
    layer.weight.data = torch.empty(0)


def _reshape(layer: nn.Linear) -> None:
    layer.weight = nn.Parameter(torch.zeros(4, 4))


@pytest.mark.parametrize("lose", [_empty, _reshape])
def test_a_group_that_lost_all_its_weights_is_stored_and_in_no_ratio(
    client: Client, lose: Callable[[nn.Linear], None]
) -> None:
    run_id = lose.__name__
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False), nn.Linear(4, 4, bias=False))
    model[2].requires_grad_(False)
    observer = UpdateObserver(model)
    registered = registration_message(observer, run_id=run_id, name="a run")
    client.register(registered)
    with torch.no_grad():
        model[0].weight[0] += 1.0
    lose(model[1])
    with pytest.warns(UserWarning, match="not measured any more"):
        observation = observer.observe(1)
    message = observation_message(observation, registered.groups)
    assert (list(message.trained), list(message.unmeasured)) == ([64, 0, 0], [0, 64, 0])
    client.send(run_id, [pb.Item(sequence=1, observation=message)])
    answer = client.http.get(f"/api/runs/{run_id}").json()
    assert answer["counts"]["unmeasured"] == 64
    assert observation.cumulative_sparsity == answer["cumulative_sparsity"] == 1 - 8 / 64
    assert observation.whole_model_cumulative_sparsity == answer["whole_model_cumulative_sparsity"] == 1 - 8 / 80
    names = ("weights", "frozen_weights", "unmeasured_weights", "changed_weights")
    exported = [client.metric(f"run_{name}", run=run_id) for name in names]
    assert exported == [144, 80, 64, 8]
    page = client.http.get(f"/runs/{run_id}").text
    assert "Nothing can be said of 64 weights" in page
    assert "<dd>90.00 %</dd>" in page
