"""A PostgreSQL server of the tests' own, reachable through a socket file only."""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.eventually import eventually

_OPTIONS = "-c listen_addresses= -c fsync=off -c unix_socket_directories={0}"


class Cluster:
    """A server with its data in `directory`."""

    def __init__(self, binaries: Path, directory: Path) -> None:
        self._binaries = binaries
        self._directory = directory
        self._account = _account()
        self._databases = (f"store{number}" for number in itertools.count(1))

    def create(self) -> None:
        self._hand_over(self._directory)
        self._run("initdb", "-D", self._data, "-U", "monitor", "-A", "trust", "-E", "UTF8", "--no-sync")

    def start(self) -> None:
        options = _OPTIONS.format(self._directory)
        self._run("pg_ctl", "-D", self._data, "-w", "-l", str(self._directory / "log"), "-o", options, "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", self._data, "-w", "-m", "immediate", "stop")

    def new_database(self) -> str:
        """Make an empty database, and return its URL."""
        return f"postgresql://monitor@/{self.new_database_name()}?host={self._directory}"

    def new_database_name(self) -> str:
        """Make an empty database, and return its name."""
        name = next(self._databases)
        self._run("createdb", "-h", self.host, "-U", "monitor", name)
        return name

    @property
    def host(self) -> str:
        """The directory of its socket."""
        return str(self._directory)

    @contextmanager
    def another(self) -> Iterator[Cluster]:
        """A second server, which is not made yet."""
        directory = self._directory.with_name("another")
        directory.mkdir()
        self._hand_over(directory)
        another = Cluster(self._binaries, directory)
        try:
            yield another
        finally:
            another.stop()

    def follow(self, main: Cluster) -> None:
        """Become a replica of another server: what that one commits from now on is here, too."""
        shutil.rmtree(self._data, ignore_errors=True)
        self._run("pg_basebackup", "-h", main.host, "-U", "monitor", "-D", self._data, "-R", "-c", "fast", "--no-sync")
        # Its own replica is yet to come.
        with (self._directory / "data" / "postgresql.auto.conf").open("a") as file:
            file.write("synchronous_standby_names = ''\n")
        self.start()
        main._ask("ALTER SYSTEM SET synchronous_standby_names = '*'")
        main._ask("SELECT pg_reload_conf()")
        eventually(lambda: main._ask("SELECT sync_state FROM pg_stat_replication") == "sync")

    def promote(self) -> None:
        """Become the one that is written to."""
        self._run("pg_ctl", "-D", self._data, "-w", "promote")

    def _ask(self, query: str) -> str:
        return self._run("psql", "-h", self.host, "-U", "monitor", "-d", "postgres", "-A", "-t", "-c", query).strip()

    @property
    def _data(self) -> str:
        return str(self._directory / "data")

    def _hand_over(self, directory: Path) -> None:
        if self._account is not None:
            shutil.chown(directory, self._account.pw_uid, self._account.pw_gid)

    def _run(self, program: str, *arguments: str) -> str:
        # Not through pipes: the server would inherit them, and reading would never end.
        with (self._directory.parent / f"{self._directory.name}.out").open("w+") as output:
            command = [*_as(self._account), str(self._binaries / program), *arguments]
            done = subprocess.run(command, cwd=self._directory, stdout=output, stderr=output, check=False, timeout=60)
            output.seek(0)
            written = output.read()
            assert done.returncode == 0, written
            return written


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    """Start a server, or skip the test where PostgreSQL is not installed."""
    binaries = _binaries()
    if binaries is None:
        pytest.skip("PostgreSQL's initdb is not installed")
    pytest.importorskip("psycopg", reason="the extra `postgresql` is not installed")
    with tempfile.TemporaryDirectory(prefix="postgresql-") as parent:
        # The server runs under another account, and must get to its directory.
        Path(parent).chmod(0o755)
        directory = Path(parent) / "cluster"
        directory.mkdir()
        cluster = Cluster(binaries, directory)
        cluster.create()
        cluster.start()
        try:
            yield cluster
        finally:
            cluster.stop()


def _binaries() -> Path | None:
    found = shutil.which("initdb")
    candidates = [Path(found).resolve().parent] if found else []
    candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((path for path in candidates if (path / "initdb").exists() and (path / "pg_ctl").exists()), None)


def _account() -> pwd.struct_passwd | None:
    """PostgreSQL refuses to run as root: take another account where the tests do."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    pytest.skip("PostgreSQL does not run as root, and there is neither an account postgres nor nobody")


def _as(account: pwd.struct_passwd | None) -> list[str]:
    """Before a command: it runs under this account.

    Not by what `subprocess` has for it, which forks this process then, and with it gRPC's threads.
    """
    if account is None:
        return []
    return ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
