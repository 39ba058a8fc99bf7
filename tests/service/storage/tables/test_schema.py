from __future__ import annotations

import sys
from pathlib import Path

import pytest
from sqlalchemy import text, update

from monitor.service.errors import StoreError, StoreVersionError
from monitor.service.storage.opening import open_engine
from monitor.service.storage.tables.schema import SCHEMA_VERSION, schema_version


def test_a_store_is_opened_again_with_what_it_holds(store_url: str) -> None:
    for _ in range(2):
        engine = open_engine(store_url)
        with engine.begin() as connection:
            assert connection.execute(schema_version.select()).scalar_one() == SCHEMA_VERSION
        engine.dispose()


def test_a_store_of_a_newer_version_is_left_alone(store_url: str) -> None:
    engine = open_engine(store_url)
    with engine.begin() as connection:
        connection.execute(update(schema_version).values(version=SCHEMA_VERSION + 1))
    engine.dispose()
    with pytest.raises(StoreVersionError, match=rf"version {SCHEMA_VERSION + 1}.* up to {SCHEMA_VERSION}.*Upgrade"):
        open_engine(store_url)


def test_acknowledged_items_survive_a_power_cut(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path}/store.db")
    with engine.begin() as connection:
        pragmas = {
            name: connection.execute(text(f"PRAGMA {name}")).scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    engine.dispose()
    full = 2
    assert pragmas == {"journal_mode": "wal", "synchronous": full, "foreign_keys": 1, "busy_timeout": 10_000}


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/missing/store.db"
    with pytest.raises(StoreError, match="check that its directory exists") as refused:
        open_engine(url)
    assert url in str(refused.value)


def test_a_file_that_is_no_store_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "store.db"
    file.write_text("a text about sparsity, which is longer than the header of a database file " * 20)
    before = file.read_bytes()
    with pytest.raises(StoreError, match="not a database"):
        open_engine(f"sqlite:///{file}")
    assert file.read_bytes() == before


def test_a_missing_driver_is_named_with_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StoreError, match=r"pip install .*postgresql") as refused:
        open_engine("postgresql://me:s3cret@host/db")
    assert "s3cret" not in str(refused.value)


def test_a_database_that_does_not_answer_is_named_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot open the store") as refused:
        open_engine(f"postgresql://me:s3cret@/db?host={tmp_path}")
    assert "s3cret" not in str(refused.value)
    assert "database server answers" in str(refused.value)
