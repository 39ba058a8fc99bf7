"""Two trainings under one run id, each with a spool of its own: what their users see, and what they are sent to do."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from monitor.errors import ConfigurationError, ReportingError, SpoolError
from monitor.report.push import push
from monitor.report.reporter import Reporter
from monitor.wire import monitor_pb2 as pb
from tests.eventually import eventually
from tests.report.attempts import NOWHERE, ObservedModel, Trainings, end_uploader, report_some, spooled, steps
from tests.service.messages import changed, finished, new_run_id
from tests.service.running import COMMAND, Client, service_in_thread


def resume(run_id: str, directory: Path, target: str | None, from_step: int = 0, **fields: object) -> Reporter:
    observed = ObservedModel()
    observed.step = from_step
    attempt = 2 if from_step else 1
    registration = observed.registration(run_id, attempt=attempt, resumed_from_step=from_step, **fields)
    reporter = Reporter(registration, directory, target)
    report_some(reporter, observed, 2)
    return reporter


def end(reporter: Reporter, step: int) -> None:
    reporter.finish(step)
    assert reporter.close(timeout=60)


def end_undelivered(reporter: Reporter, step: int) -> None:
    """End a training that the service does not take; an uploader that goes on trying is killed."""
    reporter.finish(step)
    assert not reporter.close(timeout=60)
    end_uploader(reporter)


@pytest.mark.parametrize("from_step", [0, 2])
def test_the_second_of_two_trainings_is_told_and_becomes_a_run_of_its_own(
    from_step: int, client: Client, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target, run_id = client.listening.grpc_address, f"shared-{from_step}"
    first = resume(run_id, tmp_path / "a", target, from_step)
    eventually(lambda: client.metric("run_step", run=run_id) == from_step + 2)
    second = resume(run_id, tmp_path / "b", target, from_step, labels={"machine": "second"})
    eventually(lambda: spooled(second).problem != "")
    problem = spooled(second).problem
    assert f"process {os.getpid()} on {os.uname().nodename}" in problem
    assert "push OUTPUT_DIR --run-id NEW_ID" in problem
    second.log(from_step + 2, {"loss": 1})
    eventually(lambda: f"run {run_id!r} is being trained already" in caplog.text)
    assert ("when it has been silent for 120 s, this one takes its place" in problem) is bool(from_step)
    assert "Training goes on" in caplog.text
    assert f"observations are kept in {second.directory}" in caplog.text
    end(first, from_step + 2)
    end_undelivered(second, from_step + 2)
    # As such, it is refused for good.
    with pytest.raises(ReportingError, match=r"--run-id NEW_ID"):
        push(tmp_path / "b", target, patience_seconds=30)
    assert (client.run(run_id).registration.labels, steps(client, run_id)) == ({}, [from_step + 1, from_step + 2])

    command = [COMMAND, "push", str(tmp_path / "b"), "--target", target, "--run-id", f"own-{from_step}"]
    pushed = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert pushed.stdout.startswith("delivered 4 items"), pushed.stderr
    own = client.run(f"own-{from_step}")
    assert (own.state, own.registration.labels) == (pb.RunSummary.STATE_FINISHED, {"machine": "second"})
    assert own.registration.attempt == 1
    assert own.registration.HasField("parent") == bool(from_step)
    assert (own.registration.parent.run_id, own.registration.parent.step) == ((run_id, 2) if from_step else ("", 0))
    assert steps(client, f"own-{from_step}") == [from_step + 1, from_step + 2]


_DELIVERED = """
eventually(lambda: (spooled(reporter).last_sequence, spooled(reporter).unsent) == (3, 0))
"""


@pytest.mark.xdist_group("reporting processes")
def test_a_training_takes_over_from_one_that_was_killed(trainings: Trainings, client: Client, tmp_path: Path) -> None:
    target, run_id = client.listening.grpc_address, new_run_id()
    killed = f"{_DELIVERED}os.kill(os.getpid(), signal.SIGKILL)"
    assert trainings.run(killed, run_id, tmp_path / "a", target).status == -signal.SIGKILL
    second = resume(run_id, tmp_path / "b", target, 1)
    end(second, 3)
    run = client.run(run_id)
    assert (run.registration.attempt, run.state) == (2, pb.RunSummary.STATE_FINISHED)
    assert steps(client, run_id) == [1, 2, 3]


_MACHINE_GONE = f"""{_DELIVERED}
for process in (reporter.uploader_pid, os.getpid()):
    os.kill(process, signal.SIGKILL)
"""


@pytest.mark.xdist_group("reporting processes")
def test_a_training_takes_over_from_one_whose_machine_is_gone(trainings: Trainings, tmp_path: Path) -> None:
    """Uploader and all: nobody is left to say so."""
    with service_in_thread(tmp_path / "store.db", lost_after_seconds=3) as client:
        target, run_id = client.listening.grpc_address, new_run_id()
        assert trainings.run(_MACHINE_GONE, run_id, tmp_path / "a", target).status == -signal.SIGKILL
        end(resume(run_id, tmp_path / "b", target, 1), 3)
        assert client.run(run_id).registration.attempt == 2
        assert steps(client, run_id) == [1, 2, 3]


def test_a_run_that_ended_on_a_machine_whose_clock_was_ahead_is_resumed(client: Client, tmp_path: Path) -> None:
    run_id = new_run_id()
    client.register(ObservedModel().registration(run_id))
    ended = changed(finished(1).finish, step=3, finished_at=time.time() + 7200)
    client.send(run_id, [pb.Item(sequence=1, finish=ended)])
    end(resume(run_id, tmp_path, client.listening.grpc_address, 1), 3)
    assert client.run(run_id).registration.attempt == 2


def test_a_training_goes_on_under_its_number_when_the_service_comes_back(tmp_path: Path) -> None:
    """Its first number was taken, and it registers again under the one that it got."""
    run_id = new_run_id()
    with service_in_thread(tmp_path / "store.db") as client:
        address = client.listening.grpc_address
        end(resume(run_id, tmp_path / "a", address), 2)
        end(resume(run_id, tmp_path / "b", address, 1), 3)
        third = resume(run_id, tmp_path / "c", address, 1)
        eventually(lambda: spooled(third).unsent == 0)
    with service_in_thread(tmp_path / "store.db", grpc_address=address) as client:
        third.finish(3)
        eventually(lambda: spooled(third).last_sequence == 3 and spooled(third).unsent == 0, seconds=60)
        third.close(timeout=60)
        assert (client.run(run_id).registration.attempt, steps(client, run_id)) == (3, [1, 2, 3])


def test_a_copied_spool_is_delivered_once(client: Client, tmp_path: Path) -> None:
    run_id = new_run_id()
    reporter = resume(run_id, tmp_path / "a", None)
    reporter.finish(2)
    reporter.close(timeout=0)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    for directory in ("a", "b"):
        push(tmp_path / directory, client.listening.grpc_address, patience_seconds=30)
    assert steps(client, run_id) == [1, 2]


def test_a_branch_does_not_go_on_with_another_one_under_its_id(client: Client, tmp_path: Path) -> None:
    target, run_id = client.listening.grpc_address, new_run_id()
    branches = []
    for name in ("a", "b"):
        observed = ObservedModel()
        observed.step = 5
        registration = observed.registration(run_id, resumed_from_step=5, parent=("base", 5))
        branches.append(Reporter(registration, tmp_path / name, target))
        report_some(branches[-1], observed, 1)
        branches[-1].finish(6)
        assert branches[-1].close(timeout=60) is (name == "a")
    assert f"attempt 1 of run {run_id!r} is registered already, by process" in spooled(branches[1]).problem
    assert client.run(run_id).registration.attempt == 1
    push(tmp_path / "b", target, patience_seconds=30, run_id=f"{run_id}-own")
    assert client.run(f"{run_id}-own").registration.parent.run_id == "base"


def test_a_run_id_that_is_used_again_for_another_training_is_refused_with_what_to_do(
    client: Client, tmp_path: Path
) -> None:
    target, run_id = client.listening.grpc_address, new_run_id()
    end(resume(run_id, tmp_path / "a", target), 2)
    again = resume(run_id, tmp_path / "b", target)
    again.finish(2)
    assert not again.close(timeout=60)
    problem = spooled(again).problem
    assert f"attempt 1 of run {run_id!r} is registered already, by process {os.getpid()} on" in problem
    assert "with other contents: started_at (" in problem
    assert "push OUTPUT_DIR --run-id NEW_ID" in problem
    assert push(tmp_path / "b", target, patience_seconds=30, run_id=f"{run_id}-own") == 3
    assert steps(client, run_id) == steps(client, f"{run_id}-own") == [1, 2]


@pytest.mark.parametrize(
    ("run_id", "message"), [("a/b", "printable characters without '/'"), ("mine", "is in .* already")]
)
def test_an_identity_that_cannot_be_given_is_refused(run_id: str, message: str, tmp_path: Path) -> None:
    resume("mine", tmp_path, None).close(timeout=0)
    with pytest.raises(ConfigurationError, match=message):
        push(tmp_path, NOWHERE, patience_seconds=0, run_id=run_id)


_SCRIPT_WITHOUT_TARGET = """
import sys
from contextlib import suppress
from pathlib import Path
from monitor.report.reporter import Reporter
from tests.report.attempts import ObservedModel

reporter = Reporter(ObservedModel().registration("mine"), Path("{directory}"), None)
"""
_PUSH = """
import subprocess
code = "from pathlib import Path; from monitor.report.push import push; push(Path('{0}'), '{1}', 0, 'new')"
pushed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
sys.exit(0 if "goes on. Give it another run_id when it has ended" in pushed.stderr else pushed.stderr)
"""


def test_a_training_that_goes_on_keeps_its_identity(tmp_path: Path) -> None:
    script = _SCRIPT_WITHOUT_TARGET.format(directory=tmp_path) + _PUSH.format(tmp_path, NOWHERE)
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_the_service_has_accepted_keeps_its_identity(client: Client, tmp_path: Path) -> None:
    reporter = resume(new_run_id(), tmp_path, client.listening.grpc_address)
    end(reporter, 2)
    with pytest.raises(SpoolError, match="holds no run that the service never accepted"):
        push(tmp_path, client.listening.grpc_address, patience_seconds=0, run_id="new")


def test_two_runs_do_not_become_one(tmp_path: Path) -> None:
    for run_id in ("one", "two"):
        resume(run_id, tmp_path, None).close(timeout=0)
    with pytest.raises(SpoolError, match=r"holds 2 runs \(one, two\).*Push without --run-id first"):
        push(tmp_path, NOWHERE, patience_seconds=0, run_id="new")


def test_the_log_says_nothing_of_a_training_that_is_alone(
    client: Client, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    run_id = new_run_id()
    end(resume(run_id, tmp_path, client.listening.grpc_address), 2)
    end(resume(run_id, tmp_path, client.listening.grpc_address, 1), 3)
    assert not caplog.records
