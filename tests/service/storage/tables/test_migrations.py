"""A store of an older version goes on under this one, and is kept as it was."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import update

from monitor.service.errors import StoreError
from monitor.service.storage.opening import open_engine
from monitor.service.storage.queries.curves import Range
from monitor.service.storage.store import Store
from monitor.service.storage.tables.schema import (
    SCHEMA_VERSION,
    curve_values,
    deleted_attempts,
    schema_version,
    thinned_runs,
    totals,
)
from tests.service.messages import finished, logged, observed, registration
from tests.service.storing import add

NOW = 1.75e9
NAMES = ["changed", "step_sparsity", "metric:loss", "overlap_lift:other seed"]


def _of_version_1(url: str) -> None:
    """Fill a store, and take from it what later versions added."""
    store = Store(url)
    for run_id in ("first", "second"):
        store.register(registration(run_id), NOW, max_runs=10)
        items = [each for n in range(1, 260) for each in (observed(2 * n, step=n), logged(2 * n + 1, step=n, loss=n))]
        add(store, run_id, 1, [*items, finished(600, step=260)], None, NOW)
    store.close()
    engine = open_engine(url)
    with engine.begin() as connection:
        for table in (totals, curve_values, deleted_attempts, thinned_runs):
            table.drop(connection)
        connection.execute(update(schema_version).values(version=1))
    engine.dispose()


def test_what_an_older_version_stored_has_its_curves(store_url: str) -> None:
    _of_version_1(store_url)
    store = Store(store_url)
    found = store.curves("second", NAMES, Range.of(1, 260, 1000), 2000)
    add(store, "second", 1, [observed(2000, step=301)], None, NOW)
    later = store.curves("second", ["changed"], Range.of(301, 301, 1), 2000)
    store.close()
    assert list(found) == NAMES
    assert found["changed"].last == [50] * 259
    assert found["metric:loss"].last == list(range(1, 260))
    assert later["changed"].last == [50]
    engine = open_engine(store_url)
    with engine.connect() as connection:
        assert connection.execute(schema_version.select()).scalar_one() == SCHEMA_VERSION
    engine.dispose()


def test_a_file_is_kept_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    _of_version_1(f"sqlite:///{path}")
    Store(f"sqlite:///{path}").close()
    kept = tmp_path / "store.db.version-1"
    with closing(sqlite3.connect(kept)) as connection:
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        assert tables == {"sparsity_monitor_schema", "attempts", "items"}
        assert connection.execute("SELECT count(*) FROM items").fetchone() == (2 * 519,)
        assert connection.execute("SELECT version FROM sparsity_monitor_schema").fetchone() == (1,)


def test_where_no_copy_can_be_written_nothing_is_changed(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    _of_version_1(f"sqlite:///{path}")
    (tmp_path / "store.db.version-1").mkdir()
    (tmp_path / "store.db.version-1" / "in the way").touch()
    with pytest.raises(StoreError, match=r"store\.db\.version-1 cannot be written: .*Nothing was changed: make room"):
        Store(f"sqlite:///{path}")
    assert not (tmp_path / "store.db.version-1.partial").exists()
    shutil.rmtree(tmp_path / "store.db.version-1")
    Store(f"sqlite:///{path}").close()
    assert (tmp_path / "store.db.version-1").is_file()


def test_an_item_that_cannot_be_read_is_named_and_leaves_the_older_store(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    _of_version_1(f"sqlite:///{path}")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE items SET item = x'ff' WHERE run_id = 'second' AND sequence = 501")
        connection.commit()
    with pytest.raises(StoreError, match=r"item 501 of attempt 1 of run 'second' cannot be read. Nothing was changed"):
        Store(f"sqlite:///{path}")
    with closing(sqlite3.connect(path)) as connection:
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        assert "totals" not in tables
        assert connection.execute("SELECT version FROM sparsity_monitor_schema").fetchone() == (1,)


_ENDS_HALFWAY = """
import os, sys
from monitor.service.storage.tables import migrations
from monitor.service.storage.store import Store

step = migrations._STEPS[2]
migrations._STEPS[2] = lambda connection: (step(connection), os._exit(9))
Store(sys.argv[1])
"""


def test_a_process_that_dies_halfway_leaves_the_older_store(store_url: str) -> None:
    _of_version_1(store_url)
    assert subprocess.run([sys.executable, "-c", _ENDS_HALFWAY, store_url], check=False).returncode == 9
    store = Store(store_url)
    assert store.curves("second", ["changed"], Range.of(1, 260, 1000), 2000)["changed"].last == [50] * 259
    store.close()
