"""What is done to a store, by the names under which people look for it, as processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from monitor.service.care.facts import read
from monitor.service.storage.store import Store
from tests.commands.running import command
from tests.service.messages import finished, observed, registration
from tests.service.running import service_in_thread
from tests.service.storing import add

# One worker forks them all.
pytestmark = pytest.mark.xdist_group("commands")


def _filled(directory: Path) -> str:
    url = f"sqlite:///{directory / 'store.db'}"
    store = Store(url)
    for run_id in ("first", "second"):
        store.register(registration(run_id), 1.75e9, max_runs=10)
        add(store, run_id, 1, [observed(1), finished(2, step=1)], None, 1.75e9)
    store.close()
    return url


def _held(url: str) -> set[str]:
    return {run.run_id for run in read(url).runs}


def test_runs_are_deleted_beside_where_they_are_listed(tmp_path: Path) -> None:
    url = _filled(tmp_path)
    dry = command("runs", "delete", "first", "--dry-run", SPARSITY_MONITOR_STORE_URL=url)
    assert (dry.returncode, dry.stderr) == (0, "would delete 1 run\n")
    assert dry.stdout.splitlines()[1].startswith("first\t1\t2\t")
    with service_in_thread(url):
        refused = command("runs", "delete", "first", "--store-url", url)
    assert refused.returncode == 1
    assert "Nothing was changed: stop that service for this, or have it do so by itself" in refused.stderr
    assert _held(url) == {"first", "second"}
    done = command("runs", "delete", "first", "--store-url", url)
    assert (done.returncode, done.stderr) == (0, "deleted 1 run\n")
    assert _held(url) == {"second"}


def test_a_store_is_backed_up_while_it_is_served(tmp_path: Path) -> None:
    url, copy = _filled(tmp_path), tmp_path / "copy.db"
    with service_in_thread(url):
        done = command("backup", str(copy), "--store-url", url)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{copy}: 2 runs, 4 items, ")
    assert _held(f"sqlite:///{copy}") == {"first", "second"}
