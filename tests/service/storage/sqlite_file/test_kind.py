"""What belongs to another program is left as it is, and named."""

from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import update

from monitor.report.spool.items import Spool
from monitor.service.errors import ForeignStoreError
from monitor.service.storage.opening import open_engine
from monitor.service.storage.store import Store
from monitor.service.storage.tables.schema import SCHEMA_VERSION, schema_version
from tests.forked import Nursery
from tests.service.messages import observed, registration
from tests.service.postgresql import Cluster
from tests.service.running import serving_of
from tests.service.storing import add


def _text(path: Path) -> None:
    path.write_text("# Notes\n")


def _long_text(path: Path) -> None:
    path.write_text("a text about sparsity, which is longer than the header of a database file " * 200)


def _other_tables(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        for table in ("experiments", "metrics", "params", "runs"):
            connection.execute(f"CREATE TABLE {table} (id)")
        connection.commit()


def _tables_called_alike(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE items (id, price)")
        connection.commit()


def _other_tables_in_a_log(path: Path) -> None:
    """As another program leaves it that was killed."""
    script = (
        "import os, sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('PRAGMA journal_mode=WAL'); "
        "c.execute('CREATE TABLE theirs (id)'); c.commit(); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script, path], check=False)
    assert path.with_name(f"{path.name}-wal").stat().st_size


def _other_tables_and_a_log_that_was_written_back(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE theirs (id)")
        connection.commit()


def _a_spool(path: Path) -> None:
    spool = Spool(path.parent / "run")
    spool.close()
    (found,) = [each for each in (path.parent / "run").iterdir() if each.suffix in (".db", ".sqlite", ".sqlite3")]
    found.rename(path)


def _newer(path: Path) -> None:
    engine = open_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        connection.execute(update(schema_version).values(version=SCHEMA_VERSION + 1))
    engine.dispose()


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))


def _dangling(path: Path) -> None:
    path.symlink_to(path.parent / "no" / "where")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (_text, "is no store (file is not a database)"),
        (_long_text, "is no store (file is not a database)"),
        (_other_tables, "is a database of another program, with the tables experiments, metrics, params and 1 more"),
        (_tables_called_alike, "is a database of another program, with the tables items;"),
        (_other_tables_in_a_log, "is a database of another program, with the tables theirs;"),
        (_other_tables_and_a_log_that_was_written_back, "with the tables theirs;"),
        (_a_spool, "is a database of another program, with the tables "),
        (_newer, f"has schema version {SCHEMA_VERSION + 1}; this program knows versions up to {SCHEMA_VERSION}"),
        (Path.mkdir, "is a directory; expected a store"),
        (os.mkfifo, "is a named pipe; expected a store"),
        (_socket, "is a socket; expected a store"),
        (_dangling, "No such file or directory"),
    ],
)
def test_what_is_no_store_is_named_and_left_as_it_is(
    make: Callable[[Path], object], said: str, nursery: Nursery, tmp_path: Path
) -> None:
    path = tmp_path / "what is it.db"
    make(path)
    before = _everything(tmp_path)
    done = nursery.run(serving_of(path))
    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert _everything(tmp_path) == before


def _everything(directory: Path) -> dict[str, bytes]:
    # What indexes the log holds no data, and SQLite brings it up to date when it looks.
    paths = [path for path in directory.rglob("*") if not path.name.endswith("-shm")]
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in paths}


def test_devices_are_named() -> None:
    with pytest.raises(ForeignStoreError, match="/dev/null is a device"):
        Store("sqlite:////dev/null")


def _empty(path: Path) -> None:
    path.touch()


def _without_tables(path: Path) -> None:
    """As a first start leaves it that was interrupted."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")


@pytest.mark.parametrize("make", [_empty, _without_tables])
def test_a_store_begins_where_nothing_is(make: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    make(path)
    store = Store(f"sqlite:///{path}")
    store.register(registration(), 0, max_runs=1)
    assert add(store, "run", 1, [observed(1)], None, 0) == {1}
    store.close()


_AS_NOBODY = """
import os, sys
from monitor.service.errors import StoreError
from monitor.service.storage.store import Store
os.setuid(65534)
try:
    Store(f"sqlite:///{sys.argv[1]}")
except StoreError as error:
    print(error)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to act as an account that may not write")
@pytest.mark.parametrize(
    ("of_file", "of_directory", "said"),
    [
        (0o444, 0o777, "readonly database; it can only be read: let this user write to the file and to its directory"),
        (0o666, 0o755, "Permission denied; expected a database that this user can read and write; check that its"),
        (0o000, 0o777, "unable to open database file; expected a database that this user can read and write"),
    ],
)
def test_a_store_that_cannot_be_written_ends_the_start(of_file: int, of_directory: int, said: str) -> None:
    # pytest's own directories are closed to other accounts.
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "store.db"
        Store(f"sqlite:///{path}").close()
        path.chmod(of_file)
        path.parent.chmod(of_directory)
        done = subprocess.run(
            [sys.executable, "-c", _AS_NOBODY, path], capture_output=True, text=True, check=True, timeout=120
        )
    assert f"cannot open the store sqlite:///{path}: " in done.stdout
    assert said in done.stdout


@pytest.mark.xdist_group("postgresql")
def test_tables_of_another_program_in_the_same_database_are_left_alone(cluster: Cluster) -> None:
    url = cluster.new_database()
    engine = open_engine(url)
    with engine.begin() as connection:
        for statement in (
            "DROP TABLE sparsity_monitor_schema",
            "DROP TABLE attempts CASCADE",
            "CREATE TABLE users (a int)",
        ):
            connection.exec_driver_sql(statement)
    engine.dispose()
    with pytest.raises(ForeignStoreError, match="with the tables curve_values, deleted_attempts, items and 2 more;"):
        open_engine(url)
