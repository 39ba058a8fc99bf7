"""A run that branched from another one says so wherever it is shown."""

from __future__ import annotations

import pytest
from rich.console import Console

from monitor.commands.listing import print_paragraphs, print_rows
from monitor.wire import monitor_pb2 as pb
from tests.service.messages import new_run_id, observed, registration
from tests.service.running import Client


@pytest.fixture
def branch(client: Client) -> pb.RunSummary:
    """A branch that was resumed, the second time by a sender that does not know its parent."""
    run_id, parent = new_run_id(), pb.Parent(run_id="base <1>", step=1500)
    client.register(registration(run_id, parent=parent))
    client.register(registration(run_id, attempt=2, resumed_from_step=1600))
    client.send(run_id, [observed(1, 1601)], attempt=2)
    client.register(registration(run_id, attempt=3, resumed_from_step=1601, parent=parent))
    return client.run(run_id)


def test_a_branch_names_its_parent_in_api_metrics_and_page(client: Client, branch: pb.RunSummary) -> None:
    run_id = branch.registration.run_id
    assert client.http.get(f"/api/runs/{run_id}").json()["parent"] == {"run_id": "base <1>", "step": 1500}
    listed = {run["run_id"]: run["parent"] for run in client.http.get("/api/runs").json()["runs"]}
    assert listed[run_id] == {"run_id": "base <1>", "step": 1500}
    assert client.metric("run_parent_info", run=run_id, parent="base <1>", parent_step="1500") == 1
    page = client.http.get(f"/runs/{run_id}").text
    assert '<a href="/runs/base%20%3C1%3E">base &lt;1&gt;</a> at step 1 500' in page


def test_a_branch_names_its_parent_in_the_terminal(branch: pb.RunSummary, capsys: pytest.CaptureFixture[str]) -> None:
    print_rows([branch])
    head, row = capsys.readouterr().out.splitlines()
    assert dict(zip(head.split("\t"), row.split("\t"), strict=True))["branch of"] == "base <1> at step 1500"
    print_paragraphs([branch], Console(width=80))
    assert "  branch of base <1> at step 1500\n" in capsys.readouterr().out


def test_a_run_that_began_by_itself_has_no_parent(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    run_id = new_run_id()
    client.register(registration(run_id))
    assert client.http.get(f"/api/runs/{run_id}").json()["parent"] is None
    assert client.metric("run_parent_info", run=run_id) is None
    assert "branch of" not in client.http.get(f"/runs/{run_id}").text
    print_paragraphs([client.run(run_id)], Console(width=80))
    assert "branch of" not in capsys.readouterr().out
