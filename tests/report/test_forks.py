"""Processes that a training forks, such as the workers of a data loader, and the spool that they inherit open."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from monitor.report.spool import AttemptKey, Spool

_FORK_IN_A_TRANSACTION = """
import gc, os, sys, warnings
from pathlib import Path
from monitor.report.spool import AttemptKey, Spool

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
