"""The commands on a store: what they show, what they refuse, and that they leave alone what a service has."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from monitor.service.care.by_hand import delete_runs, thin_runs
from monitor.service.care.commands import store_commands
from monitor.service.care.facts import read
from monitor.service.errors import StoreError, StoreInUseError, StoreVersionError
from monitor.service.storage.store import Store
from monitor.service.storage.stored import Thinned
from tests.service.messages import finished, logged, observed, registration
from tests.service.running import service_in_thread
from tests.service.storing import add

LONG_AGO = 1.75e9


def _filled(url: str, *run_ids: str, now: float = LONG_AGO, end: bool = True) -> str:
    store = Store(url)
    for number, run_id in enumerate(run_ids or ("run",)):
        store.register(registration(run_id), now + number, max_runs=10)
        items = [*(observed(n) for n in range(1, 21)), logged(21, loss=1.0), *[finished(22, step=20)] * end]
        add(store, run_id, 1, items, None, now + number)
    store.close()
    return url


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(store_commands, list(arguments))


def test_what_a_store_holds_is_read_beside_its_service(store_url: str) -> None:
    _filled(store_url, "first", "second")
    with service_in_thread(store_url):
        found = read(store_url)
    assert [(run.run_id, run.attempts, run.observations, run.items, run.thinned) for run in found.runs] == [
        ("first", 1, 20, 22, None),
        ("second", 1, 20, 22, None),
    ]
    each = [*(observed(n) for n in range(1, 21)), logged(21, loss=1.0), finished(22, step=20)]
    assert found.runs[0].bytes == sum(item.ByteSize() for item in each)
    assert (found.used_bytes is None) == store_url.startswith("postgresql")


def test_info_leaves_nothing_beside_the_store(tmp_path: Path) -> None:
    url = _filled(f"sqlite:///{tmp_path}/store.db")
    said = _run("info", "--store-url", url).output.splitlines()
    assert said[0] == "run\tobservations\titems\tbytes\tlast heard of\tone left in"
    assert said[1].startswith("run\t20\t22\t")
    assert said[1].endswith("\t2025-06-15 15:06:40\t1")
    assert [path.name for path in tmp_path.iterdir()] == ["store.db"]


def test_a_dry_run_says_what_would_go_and_changes_nothing(store_url: str) -> None:
    _filled(store_url, "first", "second", "third")
    before = read(store_url)
    said = _run("delete", "third", "first", "--dry-run", "--store-url", store_url)
    assert said.exit_code == 0
    assert [line.split("\t")[0] for line in said.stdout.splitlines()[1:]] == ["third", "first"]
    assert "would delete 2 runs" in said.output
    assert "run would keep at most" in _run("thin", "run", "--dry-run", "--store-url", _filled(store_url)).output
    assert [run for run in read(store_url).runs if run.run_id != "run"] == before.runs


def test_runs_are_deleted_and_the_others_stay(store_url: str) -> None:
    _filled(store_url, "first", "second", "third")
    assert "deleted 2 runs" in _run("delete", "third", "first", "--store-url", store_url).output
    found = read(store_url)
    assert ([run.run_id for run in found.runs], found.deleted) == (["second"], 2)


def test_a_run_is_thinned_to_what_is_asked_for(store_url: str) -> None:
    _filled(store_url)
    assert thin_runs(store_url, ["run"], keep=5) == [5]
    (run,) = read(store_url).runs
    assert run.items == 7
    # The 1st, 6th, 11th, 16th, and the last.
    assert run.thinned == Thinned(every=5, until_step=20, removed=15)


def test_a_run_that_is_not_there_is_named_before_anything_goes(tmp_path: Path) -> None:
    url = _filled(f"sqlite:///{tmp_path}/store.db")
    said = _run("delete", "run", "typo", "--store-url", url)
    assert said.exit_code == 1
    assert "has no run 'typo'. Nothing was changed: `sparsity-monitor store info` lists" in said.output
    assert len(read(url).runs) == 1


def test_a_run_that_may_be_under_way_is_left_alone(tmp_path: Path) -> None:
    url = _filled(f"sqlite:///{tmp_path}/store.db", now=time.time(), end=False)
    with pytest.raises(StoreError, match=r"has not ended, and was heard of \d+ s ago.*wait until it has been silent"):
        delete_runs(url, ["run"])
    assert len(read(url).runs) == 1


def test_while_a_service_has_the_store_it_is_said_who_and_what_to_do(store_url: str) -> None:
    _filled(store_url)
    with service_in_thread(store_url) as client:
        expected = r"is served already, by .*\. Nothing was changed: stop that service for this, or .*--retain-days"
        with pytest.raises(StoreInUseError, match=expected):
            delete_runs(store_url, ["run"])
        assert client.run("run").observations == 20


@pytest.mark.parametrize("command", [["info"], ["delete", "run"], ["thin", "run"]])
def test_where_there_is_no_store_none_is_made(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = _run(*command, "--store-url", f"sqlite:///{tmp_path}/nothing.db")
    assert said.exit_code == 1
    assert f"there is no store at {tmp_path}/nothing.db; correct the path that was given" in said.output
    (tmp_path / "empty.db").touch()
    assert "there is no store at" in _run(*command, "--store-url", f"sqlite:///{tmp_path}/empty.db").output
    monkeypatch.chdir(tmp_path)
    assert "/sparsity-monitor.db; say with --store-url where it is" in _run(*command).output
    assert [path.name for path in tmp_path.iterdir()] == ["empty.db"]


def test_a_store_of_another_version_is_not_read(tmp_path: Path) -> None:
    url = _filled(f"sqlite:///{tmp_path}/store.db")
    with closing(sqlite3.connect(tmp_path / "store.db")) as connection:
        connection.execute("UPDATE sparsity_monitor_schema SET version = 2")
        connection.commit()
    with pytest.raises(StoreVersionError, match="start the service on it once"):
        read(url)


def test_programs_get_json_of_each(store_url: str, tmp_path: Path) -> None:
    _filled(store_url, "first", "second")
    of_store = ("--store-url", store_url, "--json")
    first = {"run_id": "first", "attempts": 1, "observations": 20, "items": 22}
    told = json.loads(_run("info", *of_store).stdout)
    assert [run["run_id"] for run in told["runs"]] == ["first", "second"]
    assert first.items() <= told["runs"][0].items()
    assert told["deleted"] == 0
    (thinned,) = json.loads(_run("thin", "first", "--keep", "5", *of_store).stdout)["runs"]
    (left,) = [run.observations for run in read(store_url).runs if run.run_id == "first"]
    assert (first | {"kept": left}).items() <= thinned.items()
    assert 1 < left <= 5
    deleted = json.loads(_run("delete", "second", *of_store).stdout)
    assert (deleted["dry_run"], [run["run_id"] for run in deleted["runs"]]) == (False, ["second"])
    if store_url.startswith("sqlite"):
        copy = tmp_path / "copy.db"
        made = json.loads(_run("backup", str(copy), *of_store).stdout)
        assert (made["path"], made["runs"], made["bytes"]) == (str(copy), 1, copy.stat().st_size)
