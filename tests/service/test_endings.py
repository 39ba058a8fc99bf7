"""How a run that ended, or goes on, is shown in each place: page, API, metrics, gRPC, terminal."""

from __future__ import annotations

import re

import pytest
from rich.console import Console

from monitor.commands.listing import print_paragraphs, print_rows
from monitor.wire import monitor_pb2 as pb
from tests.service.messages import observed, registration
from tests.service.running import Client

STOPPED = pb.Finish(
    outcome=pb.Finish.OUTCOME_FINISHED,
    ending=pb.Finish.ENDING_STOPPED,
    reason="stopped early by EarlyStoppingCallback",
    stopped_by="EarlyStoppingCallback",
    step=20,
    finished_at=1.7e9,
)
PREEMPTED = pb.Finish(
    outcome=pb.Finish.OUTCOME_FAILED, ending=pb.Finish.ENDING_PREEMPTED, reason="SIGTERM", step=20, finished_at=1.7e9
)


def ended(client: Client, run_id: str, finish: pb.Finish) -> None:
    """A run of 40 planned steps, of which 20 were made."""
    client.register(registration(run_id, planned_steps=40))
    client.send(run_id, [observed(1, step=20), pb.Item(sequence=2, finish=finish)])


def test_the_api_tells_planned_steps_and_who_stopped_the_training(client: Client, run_id: str) -> None:
    ended(client, run_id, STOPPED)
    run = client.http.get(f"/api/runs/{run_id}").json()
    assert (run["state"], run["step"], run["planned_steps"]) == ("stopped", 20, 40)
    assert (run["stopped_by"], run["reason"]) == ("EarlyStoppingCallback", "stopped early by EarlyStoppingCallback")


def test_steps_that_are_not_planned_are_not_made_up(client: Client, run_id: str) -> None:
    client.register(registration(run_id))
    client.send(run_id, [observed(1, step=20)])
    run = client.http.get(f"/api/runs/{run_id}").json()
    assert (run["planned_steps"], run["stopped_by"]) == (None, "")
    assert client.metric("run_planned_steps", run=run_id) is None
    assert "20</dd></div>" in client.http.get(f"/runs/{run_id}").text.replace("\n", "")


def test_pages_show_how_far_a_run_came(client: Client, run_id: str) -> None:
    ended(client, run_id, PREEMPTED)
    page = client.http.get(f"/runs/{run_id}").text
    assert re.search(r"<dt>step</dt><dd>20</dd>\s*<dd class=\"hint\">of 40</dd>", page)
    assert '<span class="state preempted">preempted</span>' in page
    (row,) = [row for row in client.http.get("/").text.split("<tr>") if f'href="/runs/{run_id}"' in row]
    assert "20 of 40" in row


@pytest.mark.parametrize(("finish", "state"), [(STOPPED, "stopped"), (PREEMPTED, "preempted")])
def test_metrics_have_one_state_and_the_planned_steps(
    finish: pb.Finish, state: str, client: Client, run_id: str
) -> None:
    ended(client, run_id, finish)
    states = ("running", "stalled", "lost", "finished", "failed", "stopped", "preempted")
    assert [each for each in states if client.metric("run_state", run=run_id, state=each)] == [state]
    assert client.metric("run_planned_steps", run=run_id) == 40


@pytest.mark.parametrize(
    ("finish", "before", "now"),
    [
        (STOPPED, pb.RunSummary.STATE_FINISHED, pb.RunSummary.STATE_STOPPED),
        (PREEMPTED, pb.RunSummary.STATE_FAILED, pb.RunSummary.STATE_PREEMPTED),
    ],
)
def test_readers_of_earlier_versions_get_a_state_that_they_know(
    finish: pb.Finish, before: int, now: int, client: Client, run_id: str
) -> None:
    ended(client, run_id, finish)
    assert (client.run(run_id).state, client.run(run_id).exact_state) == (before, now)


def test_the_terminal_tells_how_far_a_run_came(client: Client, run_id: str, capsys: pytest.CaptureFixture[str]) -> None:
    ended(client, run_id, STOPPED)
    print_paragraphs([client.run(run_id)], Console(highlight=False, width=120))
    assert "stopped at step 20 of 40 · 1 observation" in capsys.readouterr().out
    print_rows([client.run(run_id)])
    head, row = (line.split("\t") for line in capsys.readouterr().out.splitlines())
    shown = dict(zip(head, row, strict=True))
    assert (shown["state"], shown["step"], shown["planned steps"]) == ("stopped", "20", "40")


def test_the_terminal_lists_the_runs_of_a_service_of_an_earlier_version(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows([pb.RunSummary(registration=registration("run"), state=pb.RunSummary.STATE_FAILED)])
    assert "\tfailed\t" in capsys.readouterr().out
