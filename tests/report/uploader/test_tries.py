from __future__ import annotations

import resource
import subprocess
from pathlib import Path

import pytest

from monitor.report.log.uploader import UPLOADER_LOG
from monitor.report.processes.locks import UPLOADER_LOCK, ProcessLock
from monitor.report.push import push
from monitor.report.reporter import Reporter
from monitor.report.spool.items import Spool
from tests.eventually import eventually
from tests.report.attempts import NOWHERE, ObservedModel, Trainings, report_some, spooled, steps, uploader_of
from tests.service.running import COMMAND, Client


@pytest.mark.xdist_group("reporting processes")
def test_a_training_that_starts_again_with_another_target_reports_to_that_one(
    trainings: Trainings, client: Client, observed: ObservedModel, directory: Path
) -> None:
    """What an uploader does that still tries to reach the wrong service, while its own training is long gone."""
    end = """
eventually(lambda: spooled(reporter).problem != "")
"""
    assert trainings.run(end, "mistaken", directory, NOWHERE).status == 0
    lock = ProcessLock(directory / UPLOADER_LOCK)
    assert not lock.acquire()
    lock.close()
    reporter = Reporter(observed.registration(), directory, client.listening.grpc_address)
    report_some(reporter, observed, 2)
    eventually(lambda: client.metric("run_step", run=reporter.key.run_id) == 2, seconds=60)
    assert steps(client, "mistaken") == [1, 2, 3]
    reporter.finish(2)
    assert reporter.close(timeout=60)


def test_push_ends_when_its_patience_does_although_the_training_goes_on(
    observed: ObservedModel, directory: Path
) -> None:
    reporter = Reporter(observed.registration(), directory, None)
    report_some(reporter, observed, 1)
    eventually(lambda: spooled(reporter).unsent == 1)
    pushed = subprocess.run(
        [COMMAND, "push", str(directory), "--target", NOWHERE, "--patience-seconds", "0"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert pushed.returncode == 1
    assert "cannot reach the service" in pushed.stderr
    reporter.close(timeout=0)


def test_push_delivers_what_a_live_training_has_observed_and_leaves_it_alive(
    client: Client, observed: ObservedModel, directory: Path
) -> None:
    reporter = Reporter(observed.registration(), directory, None)
    for observations in (2, 1):
        report_some(reporter, observed, observations)
        eventually(lambda: spooled(reporter).last_sequence == observed.step)
        command = [COMMAND, "push", str(directory), "--target", client.listening.grpc_address]
        pushed = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert pushed.stdout.startswith(f"delivered {observations} item"), pushed.stderr
    assert steps(client, reporter.key.run_id) == [1, 2, 3]
    assert client.metric("run_state", run=reporter.key.run_id, state="running") == 1
    reporter.close(timeout=0)


def test_a_full_disk_does_not_end_the_uploader(client: Client, observed: ObservedModel, directory: Path) -> None:
    reporter = Reporter(observed.registration(), directory, client.listening.grpc_address)
    report_some(reporter, observed, 1)
    eventually(lambda: client.metric("run_step", run=reporter.key.run_id) == 1)
    eventually(lambda: spooled(reporter).unsent == 0)
    uploader = uploader_of(reporter)
    _soft, hard = resource.prlimit(uploader, resource.RLIMIT_FSIZE)
    # Less than the journal needs that each commit writes.
    resource.prlimit(uploader, resource.RLIMIT_FSIZE, (4096, hard))
    report_some(reporter, observed, 1)
    eventually(lambda: "trying again: cannot keep observations" in (directory / UPLOADER_LOG).read_text())
    resource.prlimit(uploader, resource.RLIMIT_FSIZE, (hard, hard))
    eventually(lambda: spooled(reporter).unsent == 0, seconds=60)
    reporter.finish(2)
    assert reporter.close(timeout=60)
    # Still the same one.
    assert reporter.uploader_pid == uploader
    assert steps(client, reporter.key.run_id) == [1, 2]


def test_the_service_knows_in_the_end_that_nothing_is_unsent(
    client: Client, observed: ObservedModel, directory: Path
) -> None:
    reporter = Reporter(observed.registration(), directory, None)
    report_some(reporter, observed, 3)
    reporter.finish(3)
    reporter.close(timeout=0)
    push(directory, client.listening.grpc_address, patience_seconds=30)
    assert client.metric("run_unsent_items", run=reporter.key.run_id) == 0


def test_a_problem_that_is_over_is_not_told_again(client: Client, observed: ObservedModel, directory: Path) -> None:
    reporter = Reporter(observed.registration(), directory, client.listening.grpc_address)
    reporter.finish(0)
    assert reporter.close(timeout=60)
    spool = Spool(directory)
    # As when the service stops just after it acknowledged the last item.
    spool.set_problem(reporter.key, "the service closed the connection")
    spool.close()
    assert push(directory, client.listening.grpc_address, patience_seconds=0) == 0


def test_a_run_id_that_looks_like_an_option_is_delivered(
    client: Client, observed: ObservedModel, directory: Path
) -> None:
    reporter = Reporter(observed.registration("--help"), directory, client.listening.grpc_address)
    reporter.finish(0)
    assert reporter.close(timeout=60)


def test_a_checkpoint_that_is_resumed_again_without_the_first_spool_is_delivered(
    client: Client, tmp_path: Path
) -> None:
    """Each machine knows of the checkpoint only, and takes the same number."""
    target = client.listening.grpc_address

    def report(name: str, observations: int, **fields: object) -> None:
        observed = ObservedModel()
        observed.step = int(fields.get("resumed_from_step", 0))
        reporter = Reporter(observed.registration("run", **fields), tmp_path / name, target)
        report_some(reporter, observed, observations)
        reporter.finish(observed.step)
        assert reporter.close(timeout=60)

    report("first machine", 4)
    report("second machine", 3, attempt=2, resumed_from_step=2)
    report("third machine", 1, attempt=2, resumed_from_step=2)
    assert client.run("run").registration.attempt == 3
    stored = [
        (each.attempt, each.item.observation.step)
        for each in client.history("run")
        if each.item.HasField("observation")
    ]
    assert stored == [(1, 1), (1, 2), (3, 3)]
