"""One service has a store; a second one says who has it, and leaves."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from monitor.service.errors import ForeignStoreError, StoreError, StoreInUseError
from monitor.service.storage.opening import open_engine
from monitor.service.storage.sqlite_file.owner import Owner, lock_of
from monitor.service.storage.store import Store
from tests.forked import Nursery
from tests.service.messages import observed, registration
from tests.service.postgresql import Cluster
from tests.service.running import ServiceProcess, serving_of

Spawn = Callable[..., ServiceProcess]


def _refusal(nursery: Nursery, url: Path | str) -> str:
    done = nursery.run(serving_of(url))
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    return done.stderr


def _same(store: Path) -> Path:
    return store


def _by_a_link(store: Path) -> Path:
    link = store.with_name("link.db")
    link.symlink_to(store)
    return link


def _by_a_linked_directory(store: Path) -> Path:
    link = store.parent / "linked"
    link.symlink_to(store.parent)
    return link / store.name


def _by_another_way(store: Path) -> Path:
    return store.parent / ".." / store.parent.name / store.name


@pytest.mark.parametrize("name", [_same, _by_a_link, _by_a_linked_directory, _by_another_way])
def test_a_second_service_says_who_has_the_store(
    name: Callable[[Path], Path], spawn: Spawn, nursery: Nursery, tmp_path: Path
) -> None:
    service = spawn()
    said = _refusal(nursery, name(tmp_path / "store.db"))
    who = f"process {service.process.pid} on {re.escape(socket.gethostname())}"
    at = service.client.listening
    assert re.search(rf"{who}, gRPC {at.grpc_address}, HTTP {at.http_address}, since \d{{4}}-\d\d-\d\d .* UTC", said)
    service.client.register(registration())
    assert service.client.send("run", [observed(1)])[-1].acknowledgement.sequence == 1


def test_a_second_name_of_the_same_file_is_refused(spawn: Spawn, nursery: Nursery, tmp_path: Path) -> None:
    spawn()
    os.link(tmp_path / "store.db", tmp_path / "second.db")
    assert "has 2 names (hard links)" in _refusal(nursery, tmp_path / "second.db")


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.xdist_group("postgresql"))])
def test_of_services_that_start_together_on_a_new_store_one_serves(
    kind: str, tmp_path: Path, nursery: Nursery, request: pytest.FixtureRequest
) -> None:
    url = tmp_path / "new.db" if kind == "sqlite" else request.getfixturevalue("cluster").new_database()
    starting = [nursery.start(serving_of(url)) for _ in range(3)]
    # Those that may not serve end by themselves.
    lines = [process.stdout.readline() for process in starting]
    try:
        assert sum(line.startswith("listening") for line in lines) == 1
    finally:
        for process, line in zip(starting, lines, strict=True):
            if line:
                process.terminate()
    for process, line in zip(starting, lines, strict=True):
        _stdout, stderr = process.communicate(timeout=120)
        assert process.returncode == (0 if line else 1)
        assert line or "is served already, by " in stderr
        assert "Traceback" not in stderr


def test_what_is_read_of_a_store_while_another_service_makes_it_is_not_taken_for_another_programs(
    tmp_path: Path,
) -> None:
    path = tmp_path / "new.db"
    path.write_bytes(b"half of it" * 100)
    with pytest.raises(ForeignStoreError, match=r"new\.db is no store"):
        Store(f"sqlite:///{path}")
    making = Owner(path)
    with pytest.raises(StoreInUseError, match="is served already, by process"):
        Store(f"sqlite:///{path}")
    making.close()
    # What a killed service left says nothing of what is there.
    lock_of(path).touch()
    with pytest.raises(ForeignStoreError, match=r"new\.db is no store"):
        Store(f"sqlite:///{path}")
    assert path.read_bytes() == b"half of it" * 100


def test_a_service_that_was_killed_leaves_nothing_in_the_way(spawn: Spawn, tmp_path: Path) -> None:
    service = spawn()
    assert service.signal(signal.SIGKILL) == -signal.SIGKILL
    assert (tmp_path / "store.db.lock").exists()
    assert spawn().client.http.get("/readyz").status_code == 200


def test_a_service_that_ended_in_order_leaves_no_lock(spawn: Spawn, tmp_path: Path) -> None:
    assert spawn().signal(signal.SIGTERM) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["store.db"]


@pytest.mark.parametrize("text", ["", "4711", "no json {", '{"pid": 1}', "[]", "\0" * 100])
def test_whatever_a_lock_file_says_does_not_matter(text: str, spawn: Spawn, tmp_path: Path) -> None:
    (tmp_path / "store.db.lock").write_text(text)
    assert spawn().client.http.get("/readyz").status_code == 200


def test_who_lost_the_lock_to_another_takes_nothing_more(spawn: Spawn, tmp_path: Path) -> None:
    first = spawn()
    first.client.register(registration())
    (tmp_path / "store.db.lock").unlink()
    second = spawn()
    ready = first.client.http.get("/readyz")
    assert ready.status_code == 503
    assert f"process {second.process.pid} on " in ready.json()["detail"]
    assert second.client.http.get("/readyz").status_code == 200
    assert second.signal(signal.SIGTERM) == 0
    assert first.client.http.get("/readyz").status_code == 200


@pytest.mark.xdist_group("postgresql")
def test_a_second_service_on_a_database_says_who_has_it(spawn: Spawn, nursery: Nursery, cluster: Cluster) -> None:
    url = cluster.new_database()
    service = spawn(store=url)
    said = _refusal(nursery, url)
    assert f"by sparsity-monitor, process {service.process.pid} on {socket.gethostname()}"[:60] in said
    assert "since 20" in said
    assert service.signal(signal.SIGKILL) == -signal.SIGKILL
    assert spawn(store=url).client.http.get("/readyz").status_code == 200


@pytest.mark.xdist_group("postgresql")
def test_stores_in_schemas_of_one_database_are_stores_of_their_own(cluster: Cluster) -> None:
    url = cluster.new_database()
    engine = open_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA other")
        connection.exec_driver_sql(
            "ALTER ROLE monitor IN DATABASE " + url.split("/")[3].split("?")[0] + " SET search_path = other"
        )
    other = Store(url)
    with pytest.raises(StoreInUseError):
        Store(url)
    other.close()
    engine.dispose()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_that_cannot_lock_is_named(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a network file system without its lock daemon answers, which no test can mount."""

    def refuse(_descriptor: int, _operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(StoreError, match=r"cannot lock files .* on a local disk, or in PostgreSQL"):
        Store(f"sqlite:///{tmp_path}/store.db")
