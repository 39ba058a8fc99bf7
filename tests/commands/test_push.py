"""`push`: how much it says it delivered, to programs and while it is at work."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from monitor.report.push import push
from monitor.report.spool.attempt import AttemptKey
from monitor.report.spool.items import Spool
from tests.commands.running import WITHOUT_TYPER, command_after, in_terminal
from tests.service.messages import observed, registration
from tests.service.running import Client


def _spooled(directory: Path, run_id: str, items: int) -> None:
    with closing(Spool(directory / "sparsity_monitor")) as spool:
        spool.begin(key := AttemptKey(run_id, 1), registration(run_id).SerializeToString())
        spool.append(key, [(number, observed(number).SerializeToString()) for number in range(1, items + 1)])


@pytest.mark.parametrize("before", ["", WITHOUT_TYPER])
def test_programs_learn_how_much_was_delivered(before: str, tmp_path: Path) -> None:
    Spool(tmp_path / "sparsity_monitor").close()
    done = command_after(before, "push", str(tmp_path), "--json")
    assert json.loads(done.stdout) == {"delivered": 0, "target": "127.0.0.1:50051"}
    assert done.stderr == ""


def test_nobody_is_told_that_an_empty_spool_was_delivered_to_where_nothing_is(tmp_path: Path) -> None:
    Spool(tmp_path / "sparsity_monitor").close()
    assert command_after(WITHOUT_TYPER, "push", str(tmp_path)).stdout == "nothing was left to deliver\n"


def test_in_a_terminal_it_shows_how_much_is_left(start: Callable[[], Client], tmp_path: Path) -> None:
    _spooled(tmp_path, "pushed", 2)
    target = start().listening.grpc_address
    status, shown = in_terminal("push", str(tmp_path), "--target", target)
    assert status == 0
    assert shown.startswith("\r\x1b[K2 items left")
    assert shown.split("\x1b[K")[-1] == f"delivered 2 items to {target}\r\n"


def test_while_it_takes_its_time_it_tells_again(
    start: Callable[[], Client], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monitor.report.push._TELLING_SECONDS", 0)
    _spooled(tmp_path, "long", 1000)
    told: list[int] = []
    assert push(tmp_path, start().listening.grpc_address, 30, tell=told.append) == 1000
    assert told[0] == 1000
    assert len(told) > 1
    # The end of the run, which nobody told, is one item more.
    less = [left for left in told if left < 1000]
    assert less == sorted(less, reverse=True)
