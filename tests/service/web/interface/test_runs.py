"""/api/v1: runs, one run, and what cannot be answered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from monitor.service.quantities.fields import FIELDS
from tests.service.messages import finished, logged, observed, registration
from tests.service.running import Client, service_in_thread


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Three runs: a finished one of GRPO, one of SFT that runs, one without labels."""
    with service_in_thread(tmp_path_factory.mktemp("fleet") / "store.db") as client:
        client.register(registration("grpo", name="Addition, by GRPO", labels={"algorithm": "GRPO", "seed": "1"}))
        client.send("grpo", [observed(1), logged(2, loss=0.5), finished(3, step=1)])
        client.register(registration("sft", name="Addition, by SFT", labels={"algorithm": "SFT", "seed": "1"}))
        client.send("sft", [observed(1)])
        client.register(registration("bare", name="bare", labels={}, model="another/model"))
        yield client


def _ids(client: Client, **parameters: object) -> list[str]:
    return [run["run_id"] for run in client.http.get("/api/v1/runs", params=parameters).json()["runs"]]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, ["bare", "sft", "grpo"]),
        ({"state": "finished"}, ["grpo"]),
        ({"state": ["finished", "running"]}, ["bare", "sft", "grpo"]),
        ({"label": "algorithm=SFT"}, ["sft"]),
        ({"label": ["seed=1", "algorithm=GRPO"]}, ["grpo"]),
        ({"label": "algorithm=DPO"}, []),
        ({"search": "addition"}, ["sft", "grpo"]),
        ({"search": "ANOTHER/"}, ["bare"]),
        ({"search": "gRp"}, ["grpo"]),
    ],
    ids=str,
)
def test_runs_are_found(fleet: Client, parameters: dict[str, object], expected: list[str]) -> None:
    assert _ids(fleet, **parameters) == expected


def test_pages_follow_each_other_to_the_end(fleet: Client) -> None:
    first = fleet.http.get("/api/v1/runs", params={"limit": 2}).json()
    assert (first["total"], first["next_after"]) == (3, "sft")
    last = fleet.http.get("/api/v1/runs", params={"limit": 2, "after": first["next_after"]}).json()
    assert [run["run_id"] for run in last["runs"]] == ["grpo"]
    assert last["next_after"] is None


def test_a_run_names_its_curves_and_each_can_be_read(fleet: Client) -> None:
    run = fleet.http.get("/api/v1/runs/grpo").json()
    names = [field["name"] for field in run["fields"]]
    assert names[: len(FIELDS)] == list(FIELDS)
    assert names[len(FIELDS) :] == [
        "cumulative_sparsity_at:1e-05",
        "cumulative_sparsity_at:0.0001",
        "overlap_o1:other seed",
        "overlap_o2:other seed",
        "overlap_lift:other seed",
        "metric:loss",
    ]
    history = fleet.http.get("/api/v1/runs/grpo/history", params={"fields": names}).json()
    # Nothing is unmeasured in this run.
    assert list(history["curves"]) == [name for name in names if name != "unmeasured"]
    assert all(field["help"] for field in run["fields"])


def test_a_run_is_described_as_under_the_older_address(fleet: Client) -> None:
    older, run = fleet.http.get("/api/runs/grpo").json(), fleet.http.get("/api/v1/runs/grpo").json()
    assert {name: run[name] for name in older} == older


def test_attempts_are_named_with_the_steps_from_which_they_go_on(start: Callable[..., Client]) -> None:
    client = start()
    client.register(registration(started_at=100))
    client.register(registration(attempt=2, resumed_from_step=40, started_at=200))
    assert client.http.get("/api/v1/runs/run").json()["attempts"] == [
        {"attempt": 1, "resumed_from_step": 0, "started_at": 100},
        {"attempt": 2, "resumed_from_step": 40, "started_at": 200},
    ]


def test_the_overlap_with_each_reference_is_listed(fleet: Client) -> None:
    (reference,) = fleet.http.get("/api/v1/runs/grpo/references").json()
    assert reference == {"name": "other seed", "weights": 200, "intersection": 15, "expected_intersection": 5.0}


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/api/v1/runs/nobody", 404, "run 'nobody' is not in this store; /api/v1/runs names those that are"),
        ("/api/v1/runs/nobody/history", 404, "run 'nobody' is not in this store"),
        ("/api/v1/runs/bare/groups", 404, "has no observation up to that step"),
        ("/api/v1/runs?label=algorithm", 422, "label: 'algorithm' was given; expected NAME=VALUE"),
        ("/api/v1/runs?after=nobody", 404, "no run 'nobody' matches; begin again without `after`"),
        ("/api/v1/runs?state=well", 422, "state 0: Input should be 'running'"),
        ("/api/v1/runs/grpo/history?fields=sparsity", 422, "'sparsity' was given; /api/v1/runs/RUN names"),
        ("/api/v1/runs/grpo/history?points=0", 422, "points"),
        ("/api/v1/runs/grpo/groups/history?field=loss", 422, "'loss' was given; expected one of cumulative_sparsity"),
        ("/api/v1/runs/grpo/groups/history?group=mlp", 422, "'mlp' was given; expected LABEL/MODULE"),
        ("/api/v1/compare?run=grpo", 422, "run"),
        ("/api/v1/nowhere", 404, "there is nothing at '/api/v1/nowhere'"),
    ],
)
def test_what_cannot_be_answered_is_a_problem_with_its_reason(fleet: Client, path: str, status: int, said: str) -> None:
    response = fleet.http.get(path)
    problem = response.json()
    assert response.headers["content-type"] == "application/problem+json"
    assert response.status_code == problem["status"] == status
    assert problem["instance"] == path.partition("?")[0]
    assert problem["type"] == "about:blank"
    assert said in problem["detail"]


def test_runs_are_compared_curve_by_curve(fleet: Client) -> None:
    compared = fleet.http.get("/api/v1/compare", params={"run": ["grpo", "sft", "bare"], "field": "changed"}).json()
    assert compared["warning"] is None
    curves = {run["run_id"]: run["curve"] and run["curve"]["last"] for run in compared["runs"]}
    assert curves == {"grpo": [50], "sft": [50], "bare": None}


def test_runs_that_count_differently_are_said_not_to_be_comparable(
    start: Callable[..., Client], tmp_path: Path
) -> None:
    client = start()
    client.register(registration("bf16"))
    client.register(registration("fp32", visible_dtype="float32"))
    compared = client.http.get("/api/v1/compare", params={"run": ["bf16", "fp32"]}).json()
    assert "bits in bfloat16; bits in float32" in compared["warning"]
