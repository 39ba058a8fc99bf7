from __future__ import annotations

import logging
import math
import os
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from monitor.errors import ConfigurationError, ReportingError, SpoolError
from monitor.report.processes.locks import TRAINER_LOCK
from monitor.report.push import push
from monitor.report.reporter import Reporter
from monitor.report.spool.file import SPOOL_FILE
from monitor.report.spool.items import Spool
from monitor.wire import monitor_pb2 as pb
from tests.eventually import eventually
from tests.removal import remove_in_use
from tests.report.attempts import (
    NOWHERE,
    ObservedModel,
    Trainings,
    end_uploader,
    kill_uploader,
    report_some,
    spooled,
    steps,
    uploader_of,
    wait_for_end,
)
from tests.service.running import Client, service_in_thread


def test_what_is_reported_arrives_once_and_in_order(client: Client, observed: ObservedModel, directory: Path) -> None:
    reporter = Reporter(observed.registration(), directory, client.listening.grpc_address)
    report_some(reporter, observed, 3)
    reporter.log(3, {"loss": 0.5, "note": "text"})
    reporter.finish(3)
    assert reporter.close(timeout=60)
    items = [entry.item for entry in client.history(reporter.key.run_id)]
    assert sorted(item.sequence for item in items) == [1, 2, 3, 4, 5]
    assert steps(client, reporter.key.run_id) == [1, 2, 3]
    (log,) = [item.training_log for item in items if item.HasField("training_log")]
    assert (log.step, log.metrics) == (3, {"loss": 0.5})
    assert client.run(reporter.key.run_id).state == pb.RunSummary.STATE_FINISHED


def test_delivered_items_leave_the_spool(client: Client, observed: ObservedModel, directory: Path) -> None:
    reporter = Reporter(observed.registration(), directory, client.listening.grpc_address)
    report_some(reporter, observed, 5)
    reporter.finish(5)
    assert reporter.close(timeout=60)
    (attempt,) = Spool(directory).attempts()
    assert (attempt.unsent, attempt.last_sequence, attempt.dropped) == (0, 6, 0)


def test_a_block_that_ends_finishes_the_run(client: Client, observed: ObservedModel, directory: Path) -> None:
    with Reporter(observed.registration(), directory, client.listening.grpc_address) as reporter:
        report_some(reporter, observed, 2)
    eventually(lambda: client.is_over(reporter.key.run_id))
    run = client.run(reporter.key.run_id)
    assert (run.state, run.reason, run.last_step) == (pb.RunSummary.STATE_FINISHED, "", 2)


def test_a_block_that_raises_fails_the_run_with_its_exception(
    client: Client, observed: ObservedModel, directory: Path
) -> None:
    reporter = Reporter(observed.registration(), directory, client.listening.grpc_address)
    report_some(reporter, observed, 2)
    with pytest.raises(ValueError, match="no data"), reporter:
        raise ValueError("no data")
    eventually(lambda: client.is_over(reporter.key.run_id))
    finish = client.history(reporter.key.run_id)[-1].item.finish
    assert (finish.outcome, finish.reason, finish.step) == (pb.Finish.OUTCOME_FAILED, "ValueError: no data", 2)


def test_without_a_target_everything_waits_for_push(client: Client, observed: ObservedModel, directory: Path) -> None:
    reporter = Reporter(observed.registration(), directory, None)
    report_some(reporter, observed, 3)
    reporter.finish(3)
    assert not reporter.close(timeout=0)
    # The output directory serves as well as the spool's own.
    assert push(directory.parent, client.listening.grpc_address, patience_seconds=10) == 4
    assert steps(client, reporter.key.run_id) == [1, 2, 3]
    assert push(directory, client.listening.grpc_address, patience_seconds=10) == 0


def test_an_unreachable_service_is_told_once_and_nothing_is_lost(
    observed: ObservedModel, directory: Path, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    reporter = Reporter(observed.registration(), directory, NOWHERE)
    eventually(lambda: spooled(reporter).problem != "")
    report_some(reporter, observed, 3)
    reporter.finish(3)
    assert not reporter.close(timeout=0)
    told = [record.getMessage() for record in caplog.records if "cannot reach the service" in record.getMessage()]
    assert len(told) == 1
    assert NOWHERE in told[0]
    assert "Training goes on" in told[0]
    end_uploader(reporter)
    assert push(directory, client.listening.grpc_address, patience_seconds=10) == 4
    assert steps(client, reporter.key.run_id) == [1, 2, 3]


def test_what_the_spool_cannot_hold_is_told_but_not_each_time(
    observed: ObservedModel, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reporter = Reporter(observed.registration(), directory, None, max_bytes=60_000)
    for _ in range(40):
        reporter.log(1, {f"a metric with a long name {number}": 0.5 for number in range(100)})
    reporter.finish(1)
    reporter.close(timeout=0)
    dropped = Spool(directory).attempt(reporter.key).dropped
    told = [record.getMessage() for record in caplog.records]
    assert dropped > 10
    assert 1 <= len(told) <= math.log2(dropped) + 1
    assert all("items of this run are lost so far" in each for each in told)


def test_a_directory_that_vanishes_does_not_raise_into_the_training(
    client: Client, observed: ObservedModel, directory: Path
) -> None:
    reporter = Reporter(observed.registration(), directory, client.listening.grpc_address)
    kill_uploader(reporter)
    remove_in_use(directory)
    assert not reporter.close(timeout=0)
    end_uploader(reporter)


def test_a_service_that_starts_later_gets_everything(observed: ObservedModel, directory: Path, tmp_path: Path) -> None:
    with service_in_thread(tmp_path / "store.db") as client:
        address = client.listening.grpc_address
    reporter = Reporter(observed.registration(), directory, address)
    report_some(reporter, observed, 2)
    eventually(lambda: spooled(reporter).problem != "")
    with service_in_thread(tmp_path / "store.db", grpc_address=address) as client:
        report_some(reporter, observed, 2)
        eventually(lambda: spooled(reporter).problem == "")
        reporter.finish(4)
        assert reporter.close(timeout=60)
        assert steps(client, reporter.key.run_id) == [1, 2, 3, 4]


def test_an_uploader_that_is_killed_is_started_again(client: Client, observed: ObservedModel, directory: Path) -> None:
    reporter = Reporter(observed.registration(), directory, client.listening.grpc_address)
    report_some(reporter, observed, 1)
    eventually(lambda: client.metric("run_step", run=reporter.key.run_id) == 1)
    kill_uploader(reporter)
    report_some(reporter, observed, 2)
    reporter.finish(3)
    assert reporter.close(timeout=60)
    assert steps(client, reporter.key.run_id) == [1, 2, 3]


@pytest.mark.xdist_group("reporting processes")
def test_a_killed_training_process_has_delivered_what_it_committed(
    trainings: Trainings, client: Client, directory: Path
) -> None:
    # Killed only once the writer thread has committed: what is being handed over may be missing.
    end = """
eventually(lambda: spooled(reporter).last_sequence == 3)
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert trainings.run(end, "killed", directory, client.listening.grpc_address).status == -9
    eventually(lambda: client.is_over("killed"))
    assert steps(client, "killed") == [1, 2, 3]
    assert "may have been killed" in client.run("killed").reason


@pytest.mark.xdist_group("reporting processes")
def test_an_exception_that_ends_the_process_is_the_reason_of_failure(
    trainings: Trainings, client: Client, directory: Path
) -> None:
    script = trainings.run(
        "raise RuntimeError('CUDA out of memory')", "raised", directory, client.listening.grpc_address
    )
    assert script.status == 1
    assert "CUDA out of memory" in script.written
    eventually(lambda: client.is_over("raised"))
    assert client.run("raised").reason == "RuntimeError: CUDA out of memory"
    assert client.history("raised")[-1].item.finish.step == 3
    assert steps(client, "raised") == [1, 2, 3]


# Another thread closes, on a disk that takes a while, when the process ends.
_CLOSED_BESIDE = """
import threading, time
from monitor.report.writer.home import Home
write, writing = Home.write, threading.Event()
def slow(*args):
    writing.set()
    time.sleep(1)
    return write(*args)
Home.write = slow
threading.Thread(target=reporter.fail, args=("its own words",), daemon=True).start()
writing.wait()
"""


@pytest.mark.xdist_group("reporting processes")
def test_the_process_does_not_end_before_another_thread_has_written_the_end(
    trainings: Trainings, client: Client, directory: Path
) -> None:
    assert trainings.run(_CLOSED_BESIDE, "beside", directory, client.listening.grpc_address).status == 0
    eventually(lambda: client.is_over("beside"))
    assert client.run("beside").reason == "its own words"


@pytest.mark.xdist_group("reporting processes")
def test_a_process_that_ends_without_finishing_has_failed(
    trainings: Trainings, client: Client, directory: Path
) -> None:
    assert trainings.run("", "ended", directory, client.listening.grpc_address).status == 0
    eventually(lambda: client.is_over("ended"))
    assert "ended before the training did" in client.run("ended").reason


def test_a_second_start_is_the_next_attempt(client: Client, observed: ObservedModel, directory: Path) -> None:
    run_id = observed.registration().run_id
    for attempt in (1, 2):
        model = ObservedModel()
        reporter = Reporter(model.registration(run_id), directory, client.listening.grpc_address)
        assert reporter.key.attempt == attempt
        report_some(reporter, model, 2)
        reporter.finish(2)
        assert reporter.close(timeout=60)
    assert client.run(run_id).registration.attempt == 2


def test_a_lock_that_is_lost_does_not_end_a_live_run(client: Client, observed: ObservedModel, directory: Path) -> None:
    reporter = Reporter(observed.registration(), directory, client.listening.grpc_address)
    report_some(reporter, observed, 1)
    # What an upload of the output directory does: closing any descriptor of the file gives up the lock.
    (directory / TRAINER_LOCK).open().close()
    report_some(reporter, observed, 1)
    eventually(lambda: client.metric("run_step", run=reporter.key.run_id) == 2)
    assert client.run(reporter.key.run_id).state == pb.RunSummary.STATE_RUNNING
    reporter.finish(2)
    assert reporter.close(timeout=60)
    assert client.run(reporter.key.run_id).state == pb.RunSummary.STATE_FINISHED


@pytest.mark.xdist_group("reporting processes")
def test_two_processes_do_not_share_a_directory(
    trainings: Trainings, observed: ObservedModel, client: Client, directory: Path
) -> None:
    reporter = Reporter(observed.registration(), directory, None)
    script = trainings.run("", "second", directory, client.listening.grpc_address)
    assert script.status == 1
    assert f"another training process (process {os.getpid()} on" in script.written
    # The lock comes first: no attempt is begun that nobody would report.
    with closing(Spool(directory)) as spool:
        assert [attempt.key for attempt in spool.attempts()] == [reporter.key]
    reporter.close(timeout=0)


def test_a_spool_that_cannot_be_written_is_one_clear_error_and_leaves_the_directory_free(
    observed: ObservedModel, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monitor.report.spool.file._BUSY_SECONDS", 0.01)
    Spool(directory).close()
    other = sqlite3.connect(directory / SPOOL_FILE, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(SpoolError, match=r"cannot keep observations in .*database is locked.*give another one"):
        Reporter(observed.registration("locked"), directory, None)
    assert not lock_is_held(directory)
    other.close()
    reporter = Reporter(observed.registration("locked"), directory, None)
    assert reporter.key.attempt == 1
    reporter.close(timeout=0)


def lock_is_held(directory: Path) -> bool:
    """Whether this process holds the lock of the directory, as another process sees it."""
    code = (
        "import sys, pathlib; from monitor.report.processes.locks import TrainerWatch; "
        "sys.exit(TrainerWatch(pathlib.Path(sys.argv[1])).is_alive())"
    )
    return bool(subprocess.run([sys.executable, "-c", code, str(directory)], check=False).returncode)


def test_a_directory_that_cannot_be_made_is_a_clear_error(observed: ObservedModel, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SpoolError, match=r"cannot keep observations in .*file/spool.*directory"):
        Reporter(observed.registration(), tmp_path / "file" / "spool", None)


def test_strict_start_names_an_unreachable_service(observed: ObservedModel, directory: Path) -> None:
    reporter = Reporter(observed.registration(), directory, NOWHERE)
    with pytest.raises(ReportingError, match=r"not registered with the service at 127.0.0.1:1.*Start the service"):
        reporter.wait_until_registered(timeout=2)
    reporter.close(timeout=0)
    end_uploader(reporter)


def test_a_contradicting_registration_is_told_and_kept(
    client: Client, observed: ObservedModel, directory: Path, tmp_path: Path
) -> None:
    first = Reporter(observed.registration(), directory, client.listening.grpc_address)
    report_some(first, observed, 1)
    first.finish(1)
    assert first.close(timeout=60)
    # Another directory knows nothing of the first attempt, so it uses the number again.
    other = ObservedModel()
    second = Reporter(
        other.registration(first.key.run_id, model="another model"), tmp_path / "b", client.listening.grpc_address
    )
    with pytest.raises(ReportingError, match="another model"):
        second.wait_until_registered(timeout=60)
    report_some(second, other, 1)
    second.finish(1)
    refused = uploader_of(second)
    wait_for_end(refused)
    assert not second.close()
    # Not started again: it would be refused again.
    assert second.uploader_pid == refused
    assert Spool(tmp_path / "b").attempt(second.key).unsent == 2
    assert steps(client, first.key.run_id) == [1]


@pytest.mark.parametrize(
    "target", ["localhost", "http://localhost:50051", "localhost:0", "a b:1", "localhost:99999", ""]
)
def test_a_malformed_target_is_refused_before_anything_is_written(
    target: str, observed: ObservedModel, directory: Path
) -> None:
    with pytest.raises(ConfigurationError, match="expected the gRPC address of the service as host:port"):
        Reporter(observed.registration(), directory, target)
    assert not directory.exists()


def test_push_of_a_directory_without_a_spool_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(SpoolError, match="Give the output directory"):
        push(tmp_path, NOWHERE, patience_seconds=1)


def test_push_to_nowhere_keeps_everything(observed: ObservedModel, directory: Path) -> None:
    reporter = Reporter(observed.registration(), directory, None)
    report_some(reporter, observed, 2)
    reporter.finish(2)
    reporter.close(timeout=0)
    with pytest.raises(ReportingError, match=r"cannot reach the service at 127\.0\.0\.1:1"):
        push(directory, NOWHERE, patience_seconds=0)
    assert Spool(directory).attempt(reporter.key).unsent == 3


def test_whoever_ends_a_run_second_waits_until_the_end_is_written(
    observed: ObservedModel, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reporter = Reporter(observed.registration(), directory, None)
    may_commit, commits = threading.Event(), threading.Event()
    append = Spool.append

    def slow(self: Spool, *given: object, **named: object) -> None:
        commits.set()
        assert may_commit.wait(60)
        append(self, *given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Spool, "append", slow)
    first = threading.Thread(target=reporter.fail, args=("RuntimeError: CUDA out of memory",))
    first.start()
    assert commits.wait(60)
    # As when the process ends meanwhile.
    second = threading.Thread(target=reporter.fail, args=("the training process ended before the training did",))
    second.start()
    second.join(0.3)
    assert second.is_alive()
    may_commit.set()
    second.join()
    first.join()
    with closing(Spool(directory)) as spool:
        ((_, item),) = spool.unsent(reporter.key, 0, 10)
    assert pb.Item.FromString(item).finish.reason == "RuntimeError: CUDA out of memory"


@pytest.mark.parametrize("target", [None, NOWHERE])
def test_a_run_whose_reporting_broke_off_is_not_told_to_be_on_its_way(
    observed: ObservedModel, directory: Path, monkeypatch: pytest.MonkeyPatch, target: str | None
) -> None:
    reporter = Reporter(observed.registration(), directory, target)
    report_some(reporter, observed, 1)
    eventually(lambda: spooled(reporter).last_sequence == 1)

    def write(*arguments: object) -> None:
        raise ValueError("a fault")

    monkeypatch.setattr("monitor.report.writer.home.Home.write", write)
    report_some(reporter, observed, 1)
    reporter.finish(2)
    assert not reporter.close(timeout=60)
    assert reporter.why_undelivered() == (
        "reporting broke off because of an error (ValueError: a fault), and nothing that came after it is kept or "
        f"delivered. For what was kept before: sparsity-monitor push {directory} --target {target or 'HOST:PORT'}"
    )
    if target is not None:
        end_uploader(reporter)
