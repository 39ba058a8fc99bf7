from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from monitor.report.reporter import Reporter
from monitor.report.writer import uploader_process
from tests.eventually import eventually
from tests.report.attempts import NOWHERE, ObservedModel, kill_uploader, report_some, spooled, steps, uploader_of
from tests.service.running import Client


def test_a_later_attempt_in_the_same_process_reports_to_its_own_target(
    client: Client, observed: ObservedModel, directory: Path
) -> None:
    first = Reporter(observed.registration(), directory, NOWHERE)
    report_some(first, observed, 1)
    eventually(lambda: spooled(first).problem != "")
    first.finish(1)
    assert not first.close(timeout=0)
    again = ObservedModel()
    second = Reporter(again.registration(), directory, client.listening.grpc_address)
    report_some(second, again, 1)
    second.finish(1)
    assert second.close(timeout=60)
    assert steps(client, first.key.run_id) == steps(client, second.key.run_id) == [1]
    ended = uploader_of(first)
    # As it is with the next training, in a process that has many.
    eventually(lambda: uploader_process._collect_ended() or ended not in uploader_process._left)
    with pytest.raises(ChildProcessError):
        os.waitpid(ended, 0)


def _is_started_again(reporter: Reporter, killed: int) -> bool:
    # Whether it lives is looked at after each commit.
    reporter.log(0, {"loss": 0})
    return reporter.uploader_pid != killed


def test_an_uploader_that_dies_again_and_again_is_always_started_again(
    client: Client, observed: ObservedModel, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monitor.report.writer.uploader_process._FIRST_RESTART_SECONDS", 0.001)
    reporter = Reporter(observed.registration(), directory, client.listening.grpc_address)
    killed: list[int] = []
    for _ in range(8):
        killed.append(kill_uploader(reporter))
        report_some(reporter, observed, 1)
        eventually(lambda: _is_started_again(reporter, killed[-1]))
    reporter.finish(8)
    assert reporter.close(timeout=60)
    assert steps(client, reporter.key.run_id) == [*range(1, 9)]


def test_a_process_is_forked_after_the_uploader_has_been_started_not_meanwhile() -> None:
    """A worker that is forked meanwhile would hold the pipe that the start waits for, as long as it lives."""
    events: list[str] = []
    with uploader_process._starting:
        thread = threading.Thread(target=lambda: (events.append("fork"), _fork_and_end(), events.append("forked")))
        thread.start()
        eventually(lambda: events == ["fork"])
        thread.join(0.2)
        assert events == ["fork"]
    thread.join(10)
    assert events == ["fork", "forked"]
    assert uploader_process._starting.acquire(timeout=1)
    uploader_process._starting.release()


def _fork_and_end() -> None:
    if (child := os.fork()) == 0:
        os._exit(0)
    os.waitpid(child, 0)


def test_one_that_ends_just_after_it_was_looked_at_has_delivered(
    client: Client, observed: ObservedModel, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait, looks = subprocess.Popen.wait, []

    def ends_just_after(process: subprocess.Popen[bytes], timeout: float | None = None) -> int:
        if not looks and "monitor.report.uploader" in map(str, process.args):
            looks.append(process.pid)
            wait(process, 60)
            raise subprocess.TimeoutExpired(process.args, timeout or 0.0)
        return wait(process, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", ends_just_after)
    reporter = Reporter(observed.registration(), directory, client.listening.grpc_address)
    report_some(reporter, observed, 1)
    reporter.finish(1)
    assert reporter.close(timeout=60)
    assert looks == [reporter.uploader_pid]


def _dies_when_waited_for(monkeypatch: pytest.MonkeyPatch, times: int) -> list[int]:
    """Kill uploaders as soon as the end of a training waits for them, and return which."""
    wait = subprocess.Popen.wait
    killed: list[int] = []

    def killing(process: subprocess.Popen[bytes], timeout: float | None = None) -> int:
        if len(killed) < times and process.pid not in killed and "monitor.report.uploader" in map(str, process.args):
            killed.append(process.pid)
            process.kill()
            wait(process, 60)
        return wait(process, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", killing)
    return killed


def test_one_that_dies_while_the_end_waits_for_it_is_started_again(
    client: Client, observed: ObservedModel, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reporter = Reporter(observed.registration(), directory, client.listening.grpc_address)
    # Nothing is delivered before it is waited for.
    os.kill(uploader_of(reporter), signal.SIGSTOP)
    report_some(reporter, observed, 2)
    reporter.finish(2)
    killed = _dies_when_waited_for(monkeypatch, times=1)
    assert reporter.close(timeout=60)
    assert reporter.uploader_pid not in killed
    assert steps(client, reporter.key.run_id) == [1, 2]


def test_of_one_that_always_dies_it_is_said_that_nobody_goes_on(
    observed: ObservedModel, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only the first one that dies is replaced at once.
    monkeypatch.setattr("monitor.report.writer.uploader_process._FIRST_RESTART_SECONDS", 600.0)
    reporter = Reporter(observed.registration(), directory, NOWHERE)
    report_some(reporter, observed, 1)
    reporter.finish(1)
    killed = _dies_when_waited_for(monkeypatch, times=100)
    assert not reporter.close(timeout=0.5)
    assert killed
    assert re.search(
        r"the uploader died, see .*uploader.log.* kept in .*; deliver with: sparsity-monitor push",
        reporter.why_undelivered(),
    )
