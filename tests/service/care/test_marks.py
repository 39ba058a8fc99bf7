"""What was thinned or deleted is marked wherever a person reads what is left."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from rich.console import Console

from monitor.commands import listing, run_tables
from monitor.commands.export.export import export
from monitor.notebook.from_service import ServiceSource
from monitor.notebook.interface import Interface
from monitor.service.care.by_hand import delete_runs, thin_runs
from monitor.service.storage.store import Store
from monitor.service.storage.stored import Thinned
from tests.service.messages import finished, logged, observed, registration
from tests.service.running import service_in_thread
from tests.service.storing import add

NOW = 1.75e9


def _filled(path: Path, count: int = 1000) -> str:
    url = f"sqlite:///{path / 'store.db'}"
    store = Store(url)
    store.register(registration(), NOW, max_runs=10)
    add(store, "run", 1, [*(observed(n) for n in range(1, count + 1)), finished(count + 1, step=count)], None, NOW)
    store.close()
    return url


def _thinned(url: str) -> Thinned | None:
    store = Store(url)
    try:
        return store.run("run").thinned
    finally:
        store.close()


def test_a_run_says_how_many_of_its_observations_are_left(tmp_path: Path) -> None:
    url = _filled(tmp_path)
    assert _thinned(url) is None
    thin_runs(url, ["run"], keep=100)
    # The 1st, 12th, 23rd, … and the last.
    assert _thinned(url) == Thinned(every=11, until_step=1000, removed=1000 - 91 - 1)
    thin_runs(url, ["run"], keep=10)
    # Of 92, every 11th: one in 121 of all there were.
    assert _thinned(url) == Thinned(every=121, until_step=1000, removed=1000 - 9 - 1)


def test_what_comes_behind_it_is_whole(tmp_path: Path) -> None:
    url = _filled(tmp_path)
    thin_runs(url, ["run"], keep=100)
    store = Store(url)
    store.register(registration(attempt=2, resumed_from_step=1000), NOW, max_runs=10)
    add(store, "run", 2, [observed(n, step=1000 + n) for n in range(1, 51)], None, NOW)
    thinned = store.run("run").thinned
    store.close()
    assert thinned is not None
    assert (thinned.every, thinned.until_step) == (11, 1000)


def test_what_keeps_within_the_bound_has_no_mark(tmp_path: Path) -> None:
    url = _filled(tmp_path, count=50)
    thin_runs(url, ["run"], keep=50)
    assert _thinned(url) is None


def test_a_reader_is_told_that_a_run_was_thinned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = _filled(tmp_path)
    with service_in_thread(url, finished_shown_seconds=1e12) as client:
        whole = client.http.get("/api/v1/runs/run").json()
        assert not client.run("run").HasField("thinned")
        assert not [line for line in run_tables.summary(whole) if "thinned" in line]
        page = client.http.get("/runs/run").text
        assert 'run_step{run="run"}' in (metrics := client.http.get("/metrics").text)
        assert "run_thinned" not in metrics
    assert (whole["thinned"], whole["deleted_at"]) == (None, None)
    assert "thinned" not in page
    thin_runs(url, ["run"], keep=100)
    with service_in_thread(url, finished_shown_seconds=1e12) as client:
        said = {"every": 11, "until_step": 1000, "removed": 908}
        assert client.http.get("/api/v1/runs/run").json()["thinned"] == said
        assert client.http.get("/api/v1/runs/run/history").json()["thinned"] == said
        assert client.http.get("/api/v1/runs/run/groups/history").json()["thinned"] == said
        assert client.http.get("/api/v1/compare?run=run&run=run").status_code == 200
        summary = client.run("run").thinned
        assert (summary.every, summary.until_step, summary.removed) == (11, 1000, 908)
        text = client.http.get("/api/v1/runs/run/history?format=csv&fields=changed").text
        assert {line.rsplit(",", 1)[1] for line in text.splitlines()} == {"one_left_in", "11"}
        marks = [f"sparsity_monitor_run_thinned_{name}" for name in ("until_step", "every", "observations")]
        metrics = client.http.get("/metrics").text
        for mark, value in zip(marks, (1000, 11, 908), strict=True):
            assert f'\n{mark}{{run="run"}} {value}.0\n' in metrics
        export(Interface(str(client.http.base_url)), "run", tmp_path / "run.om", None, ["trained"])
        capsys.readouterr()
        exported = (tmp_path / "run.om").read_text()
        for mark, value in zip(marks, (1000, 11, 908), strict=True):
            assert exported.count(f'\n{mark}{{run="run"}} {value}.0 ') == 92
        shown = run_tables.summary(client.http.get("/api/v1/runs/run").json())
        assert shown[-1].startswith("The observations of this run were thinned")
        listing.print_rows([client.run("run")])
        assert capsys.readouterr().out.endswith("\tup to step 1000 at least 1 in 11 is left\n")
        listing.print_paragraphs([client.run("run")], Console(width=80))
        assert "  thinned: up to step 1000 at least 1 in 11 is left\n" in capsys.readouterr().out
        page = " ".join(client.http.get("/runs/run").text.split())
        assert "up to step 1 000 at least 1 observation in 11 is left; 908 were removed from the store" in page
        source = ServiceSource(str(client.http.base_url), "run")
        (remark,) = source.described.remarks
        assert remark.startswith("The observations of this run were thinned in the service: up to step 1,000 at least")
        assert len(source.observations()["step"]) == 92
        export(Interface(str(client.http.base_url)), "run", tmp_path / "run.csv", None, ["changed"])
        assert capsys.readouterr().err == f"{remark}\n"
        rows = list(csv.DictReader((tmp_path / "run.csv").read_text().splitlines()))
        assert [row["one_left_in"] for row in rows] == ["11"] * 92


def test_a_reader_is_told_what_was_deleted_of_a_run_that_came_again(tmp_path: Path) -> None:
    url = _filled(tmp_path, count=5)
    delete_runs(url, ["run"])
    with service_in_thread(url) as client:
        assert client.register(registration()).last_sequence == 6
        client.send("run", [observed(7)])
        at = client.http.get("/api/v1/runs/run").json()["deleted_at"]
        assert at > NOW
        assert "what it had reported until 2" in client.http.get("/runs/run").text
        (remark,) = ServiceSource(str(client.http.base_url), "run").described.remarks
        assert "was deleted from the service; only what came after is here" in remark


@pytest.mark.parametrize(("attempt", "marked"), [(1, False), (2, True)])
def test_the_mark_is_of_this_training_alone(attempt: int, marked: bool, store_url: str) -> None:
    """Another one of the same name begins anew; a resume of what was deleted does not."""
    store = Store(store_url)
    store.register(registration(), NOW, max_runs=10)
    add(store, "run", 1, [observed(1), logged(2, loss=1.0)], None, NOW)
    store.delete("run", NOW)
    while store.delete_more("run").rows:
        pass
    store.register(registration(attempt=attempt, started_at=1.8e9), NOW, max_runs=10)
    assert (store.run("run").deleted_at == NOW) is marked
    store.close()
