"""Somebody watches: dashboards show data, the right alerts reach people, the others stay silent, and all resolve.

The real service, Prometheus with our rules and Alertmanager with our routes; only Grafana is missing, whose queries are
asked of Prometheus instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from transformers import TrainerCallback

from monitor import SparsityCallback
from monitor.grafana.addresses import RUN_UID
from monitor.grafana.rules.managed_rules import managed_rules
from tests.end_to_end.panel_queries import boards, choices, without_data
from tests.end_to_end.reported_run import MODULES, reporting
from tests.end_to_end.watching import QUICK, Watching, watching
from tests.eventually import eventually
from tests.service.running import ServiceProcess
from tests.tiny import common_arguments, grpo_trainer, sft_trainer

# They share a service, and what they wait for takes its time from one scrape to the next.
pytestmark = pytest.mark.xdist_group("watching")

_SECONDS = 180


@pytest.fixture
def watched(service: ServiceProcess, tmp_path: Path) -> Iterator[Watching]:
    with watching(tmp_path, service.client.listening.http_address) as watched:
        yield watched


def _missing(watched: Watching, run_id: str) -> list[str]:
    """The queries of all dashboards that return no data."""
    return [
        f"{uid}, {panel}"
        for uid, board in boards().items()
        for panel in without_data(watched.prometheus, board, {"run": run_id} if uid == RUN_UID else {})
    ]


def _is_past(watched: Watching, run_id: str | None, seconds: int) -> bool:
    """Whether the run was past its warm-up some seconds ago."""
    steps = watched.prometheus.query(f'sparsity_monitor_run_step{{run="{run_id}"}} offset {seconds}s')
    return bool(steps) and steps[0][1] >= QUICK.warmup_steps


def _managed_by_grafana(watched: Watching) -> set[tuple[str, str]]:
    """(alert, run) whose condition holds, as Grafana-managed rules ask for it."""
    return {
        (rule["title"], labels.get("run", ""))
        for rule in managed_rules(QUICK)
        for labels, _ in watched.prometheus.query(rule["data"][0]["model"]["expr"])
    }


def test_run_that_goes_dense_is_told_of_and_a_sparse_one_is_not(service: ServiceProcess, watched: Watching) -> None:
    with reporting(service.client, "grpo") as sparse:
        eventually(lambda: _missing(watched, sparse.run_id) == [], _SECONDS)
        assert watched.firing() == set()
        assert _missing(watched, "no such run"), "a check that cannot fail"
        _assert_variables_offer(watched, sparse.run_id, "grpo")
    with reporting(service.client, "sft") as dense:
        eventually(lambda: _has_history(watched, dense.run_id), _SECONDS)
        assert watched.firing() == set()
        dense.cumulative_density, dense.step_density, dense.lift = 0.85, 0.30, 1.0
        about_it = {"CumulativeSparsityCritical", "CumulativeSparsityLow", "StepSparsityCollapsed", "OverlapAtChance"}
        expected = {(alert, dense.run_id) for alert in about_it}
        eventually(lambda: watched.firing() == expected, _SECONDS)
        # A scrape that takes longer than its interval fails, and for that long nothing is known of any run.
        eventually(lambda: _managed_by_grafana(watched) == expected, _SECONDS)
        # Critical says it all: the milder alert is inhibited.
        told = expected - {("CumulativeSparsityLow", dense.run_id)}
        eventually(lambda: watched.webhook.alerts("firing").keys() >= told, _SECONDS)
        assert watched.webhook.alerts("firing").keys() == told
        texts = watched.webhook.alerts("firing")[("CumulativeSparsityCritical", dense.run_id)]
        assert texts == {
            "summary": f"Run sft ({dense.run_id}) is denser than any published RL run",
            "description": "Cumulative sparsity is 15% of the trained weights (criterion bits, bfloat16), below 35 %. "
            "Published RL checkpoints keep 36–96 %, supervised fine-tuning 0.6–19 %.",
            "runbook_url": "http://127.0.0.1:8765/runbook#cumulativesparsitycritical",
        }
        _assert_leads_to_what_to_do(service, texts["runbook_url"])
        eventually(lambda: _alerts_not_drawn_in(watched, dense.run_id) == [], _SECONDS)
    eventually(lambda: watched.firing() == set(), _SECONDS)
    eventually(lambda: watched.webhook.alerts("resolved").keys() >= told, _SECONDS)
    # Both alerts about cumulative sparsity end at once. Alertmanager may hear of the graver one first, and for that
    # instant nothing inhibits the milder.
    assert watched.webhook.alerts("firing").keys() <= expected


def _assert_leads_to_what_to_do(service: ServiceProcess, link: str) -> None:
    """Whoever was told follows the link, which names the default address; here the service has another port."""
    asked = urlsplit(link)
    chapters = service.client.http.get(asked.path).text.split('<h2 id="')
    assert any(chapter.startswith(f'{asked.fragment}"') for chapter in chapters)


def _has_history(watched: Watching, run_id: str) -> bool:
    """Past the warm-up, with a median of its own that outlasts the present until everybody has been told."""
    return _is_past(watched, run_id, seconds=QUICK.warmup_seconds + QUICK.step_recent_seconds + 12)


def _assert_variables_offer(watched: Watching, run_id: str, name: str) -> None:
    (board,) = [each for uid, each in boards().items() if uid == RUN_UID]
    variables = {each["name"]: each for each in board["templating"]["list"] if each["type"] == "query"}
    offered = {name: choices(watched.prometheus, each, {"run": run_id}) for name, each in variables.items()}
    assert (f"{run_id} · {name}", run_id) in offered["run"]
    ((_, service_url),) = offered["service_url"]
    assert httpx.get(f"{service_url}/runs/{run_id}").status_code == 200
    layers = {f"{stack} {number}" for stack in ("encoder", "decoder") for number in ("00", "01")}
    assert offered["layer"] == {(layer, layer) for layer in {"-", *layers}}
    modules = {f"{path}{module}" for path in ("encoder.", "") for module in MODULES}
    assert {value for _, value in offered["module"]} == {"embed_tokens", *modules}
    assert offered["reference"] == {("other seed", "other seed")}
    assert {value for _, value in offered["metric"]} == {"loss", "reward"}
    assert offered["job"] == {("sparsity-monitor", "sparsity-monitor")}


def _alerts_not_drawn_in(watched: Watching, run_id: str) -> list[str]:
    """The dashboards whose annotations return nothing."""
    missing = []
    for uid, board in boards().items():
        (annotation,) = board["annotations"]["list"]
        expr = annotation["expr"].replace('run="$run"', f'run="{run_id}"')
        for variable in ("$job", "$runs", "$run", "$instance"):
            expr = expr.replace(variable, ".+")
        if not watched.prometheus.query(expr):
            missing.append(uid)
    return missing


class Until(TrainerCallback):  # type: ignore[misc]
    """Goes on training until something is seen elsewhere, then stops."""

    def __init__(self, seen: Callable[[], bool]) -> None:
        self._seen = seen
        self.is_reached = False

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._seen():
            self.is_reached = control.should_training_stop = True


def test_trainings_are_watched(service: ServiceProcess, watched: Watching, model: Path, tmp_path: Path) -> None:
    target = service.client.listening.grpc_address
    sparse = SparsityCallback(target, "grpo", labels={"algorithm": "GRPO"}, on_dense=None)
    arguments = {"max_steps": 5000, "logging_steps": 5}
    settled = Until(lambda: _is_past(watched, sparse.run_id, seconds=2 * QUICK.hold_seconds))
    grpo_trainer(
        model,
        common_arguments(tmp_path / "grpo", bf16_weights=True, learning_rate=1e-6, **arguments),
        [sparse, settled],
    ).train()
    assert settled.is_reached
    assert watched.firing() == set()
    ((_, cumulative_sparsity),) = watched.prometheus.query(
        f'run:sparsity_monitor_cumulative_sparsity:ratio{{run="{sparse.run_id}"}}'
    )
    assert 0.9 < cumulative_sparsity < 1, "a training that changes nothing proves nothing"

    (mask,) = (tmp_path / "grpo").rglob("*.safetensors")
    dense = SparsityCallback(
        target, "sft", labels={"algorithm": "SFT"}, references={"grpo": mask}, tolerances=(1e-4,), on_dense=None
    )
    told = Until(
        lambda: (
            ("CumulativeSparsityCritical", dense.run_id) in watched.webhook.alerts("firing")
            and _missing(watched, dense.run_id) == []
        )
    )
    sft_trainer(model, common_arguments(tmp_path / "sft", learning_rate=1e-3, **arguments), [dense, told]).train()
    assert told.is_reached, "not every panel had data while it trained"
    firing = watched.webhook.alerts("firing")
    texts = firing[("CumulativeSparsityCritical", dense.run_id or "")]
    assert texts["summary"] == f"Run sft ({dense.run_id}) is denser than any published RL run"
    assert {run for _, run in firing} == {dense.run_id}
    assert {alert for alert, _ in firing} <= {"CumulativeSparsityCritical", "CumulativeSparsityLow"}
    eventually(lambda: watched.firing() == set(), _SECONDS)
    eventually(lambda: watched.webhook.alerts("resolved").keys() >= firing.keys(), _SECONDS)
