"""Processes that a training forks, such as the workers of a data loader, and the spool that they inherit open."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from monitor.report.spool import forks
from monitor.report.spool.attempt import AttemptKey
from monitor.report.spool.forks import Undivided
from monitor.report.spool.items import Spool
from monitor.wire import monitor_pb2 as pb
from tests.eventually import eventually
from tests.service.running import Client

ROOT = Path(__file__).parents[3]

_FORK_IN_A_TRANSACTION = """
import gc, os, sys, warnings
from pathlib import Path
from monitor.report.spool.items import AttemptKey, Spool

warnings.simplefilter("ignore", DeprecationWarning)
key = AttemptKey("run", 1)
spool = Spool(Path(sys.argv[1]))
spool.begin(key, b"registration")
spool.append(key, [(number, bytes(5000)) for number in range(1, 11)])
connection = spool._connection
connection.execute("BEGIN IMMEDIATE")
# Some of it is written to the file before the commit.
connection.execute("PRAGMA cache_size = 1")
connection.execute("DELETE FROM items WHERE sequence < 6")
connection.executemany("INSERT INTO items VALUES ('run', 1, ?, ?)", ((n, bytes(9000)) for n in range(11, 60)))
if (child := os.fork()) == 0:
    spool.close()
    del spool, connection
    gc.collect()
    {end}
assert os.waitpid(child, 0)[1] == 0
connection.execute("COMMIT")
"""


@pytest.mark.parametrize("end", ["os._exit(0)", "sys.exit()"])
def test_a_child_that_collects_garbage_or_ends_leaves_the_transaction_of_its_parent_alone(
    end: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", _FORK_IN_A_TRANSACTION.format(end=end), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    with closing(Spool(tmp_path)) as spool:
        spool.check_sound()
        assert [number for number, _ in spool.unsent(AttemptKey("run", 1), 0, 99)] == [*range(6, 60)]


def test_no_child_touches_the_run_of_its_parent_and_each_may_report_its_own(client: Client, tmp_path: Path) -> None:
    """Workers of a data loader, `os.fork`, fork and forkserver: as they end, are killed, and collect garbage."""
    command = [sys.executable, "-W", "always::ResourceWarning", "-m", "tests.report.spool.forking", str(tmp_path)]
    target = client.listening.grpc_address
    done = subprocess.run([*command, target], cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert (done.returncode, done.stderr) == (0, "")
    sent = {run_id: client.history(run_id) for run_id in ("forking", "fork", "forkserver")}
    assert {run_id: [each.item.sequence for each in items] for run_id, items in sent.items()} == {
        "forking": [1, 2, 3, 4, 5],
        "fork": [1, 2],
        "forkserver": [1, 2],
    }
    ends = {(run.state, run.reason) for run in map(client.run, sent)}
    assert ends == {(pb.RunSummary.STATE_FINISHED, "")}
    assert (tmp_path / "forking" / "uploader.log").read_text() == ""


_FORK_BESIDE_A_WRITER = """
import os, sqlite3, sys, threading, time, warnings
from pathlib import Path
from monitor.report.spool.items import AttemptKey, Spool

warnings.simplefilter("ignore", DeprecationWarning)
key, is_over = AttemptKey("run", 1), threading.Event()

def write():
    spool, number = Spool(Path(sys.argv[1]), max_bytes=10**6), 0
    spool.begin(key, b"registration")
    while not is_over.is_set():
        number += 50
        spool.append(key, [(number - each, bytes(300)) for each in range(49, -1, -1)])
        spool.acknowledge(key, number - 100)
    spool.close()

def use_sqlite():
    with sqlite3.connect(":memory:") as connection:
        connection.execute("CREATE TABLE t (a)")
        connection.executemany("INSERT INTO t VALUES (?)", [(bytes(2000),)] * 50)

thread = threading.Thread(target=write)
thread.start()
children = []
for _ in range(150):
    if (child := os.fork()) == 0:
        use_sqlite()
        os._exit(0)
    children.append(child)
is_over.set()
thread.join()
for child in children:
    assert os.waitpid(child, 0)[1] == 0
"""


def test_a_child_can_use_sqlite_whatever_the_writer_of_its_parent_was_doing(tmp_path: Path) -> None:
    """SQLite's own locks, which that thread may hold for a moment, are nobody's in the child: it would hang."""
    command = [sys.executable, "-c", _FORK_BESIDE_A_WRITER, str(tmp_path)]
    with subprocess.Popen(command, start_new_session=True) as process:
        try:
            assert process.wait(timeout=60) == 0
        finally:
            if process.poll() is None:
                # With the children that hang.
                os.killpg(process.pid, signal.SIGKILL)


def test_a_process_is_forked_between_what_is_undivided_and_waits_once_for_what_lasts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(forks, "_FORK_SECONDS", 600.0)
    undivided, events = Undivided(), list[str]()
    with undivided:
        thread = threading.Thread(target=_fork, args=(events,))
        thread.start()
        eventually(lambda: events == ["fork"])
        thread.join(0.2)
        assert events == ["fork"]
    thread.join(60)
    assert events == ["fork", "forked"]
    with undivided:
        stopped: list[bool] = []
        for seconds in (0.0, 600.0):
            thread = threading.Thread(target=lambda s=seconds: stopped.append(undivided.stop(time.monotonic() + s)))
            thread.start()
            thread.join(60)
        assert stopped == [False, False]


def _fork(events: list[str]) -> None:
    """What a fork does before and after it; not the fork, of a process in which gRPC has threads."""
    events.append("fork")
    forks._stop_all()
    events.append("forked")
    forks._go_on()
