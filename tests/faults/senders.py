"""What happens to a training and its uploader: killed, or stopped for a while."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from unittest import mock

from tests.eventually import eventually
from tests.faults.services import LOST_SOON, running
from tests.faults.training import ARRIVAL_SECONDS, Outcome, Training, shown
from tests.processes import Processes
from tests.report.attempts import Trainings, kill_uploader, steps, uploader_of


def killed_uploaders(directory: Path, times: int) -> Outcome:
    """The uploader is killed while it delivers."""
    with (
        running(directory / "store.db") as service,
        mock.patch("monitor.report.writer.uploader_process._FIRST_RESTART_SECONDS", 0.001),
        mock.patch("monitor.report.writer.uploader_process._LAST_RESTART_SECONDS", 0.1),
    ):
        training = Training(directory, service.client.listening.grpc_address)
        for _ in range(times):
            training.train()
            killed = kill_uploader(training.reporter)

            def is_started_again(killed: int = killed) -> bool:
                training.train(1)
                return training.reporter.uploader_pid != killed

            with training.broken():
                eventually(is_started_again, ARRIVAL_SECONDS)
        training.end()
        return training.assert_whole(service.client)


def stopped_uploader(directory: Path, times: int, seconds: float = 0) -> Outcome:
    """The uploader is stopped by SIGSTOP and goes on: the run is lost meanwhile, and then it is not.

    Args:
        seconds: how long at least.
    """
    with running(directory / "store.db", *LOST_SOON) as service:
        client = service.client
        training = Training(directory, client.listening.grpc_address)
        for _ in range(times):
            training.wait_until_some_arrived(client)
            uploader = uploader_of(training.reporter)
            os.kill(uploader, signal.SIGSTOP)
            with training.broken():
                training.go_on(seconds)
                training.wait_until_shown(client, "lost")
            # Where it was stopped in the middle of a commit, the training has ended it, and another one delivers.
            with suppress(ProcessLookupError):
                os.kill(uploader, signal.SIGCONT)
            training.wait_until_shown(client, "running")
        training.end()
        return training.assert_whole(client)


def killed_trainings(directory: Path, times: int) -> Outcome:
    """The training is killed after it observed something; its uploader delivers that, and tells of the end."""
    with running(directory / "store.db") as service, Processes(directory, "tests.report.attempts") as processes:
        trainings = Trainings(processes)
        for number in range(times):
            run_id = f"killed {number}"
            end = "eventually(lambda: spooled(reporter).last_sequence == 3)\nos.kill(os.getpid(), signal.SIGKILL)"
            ended = trainings.run(end, run_id, directory / run_id, service.client.listening.grpc_address)
            assert ended.status == -signal.SIGKILL
        for number in range(times):
            run_id = f"killed {number}"
            eventually(lambda run_id=run_id: service.client.is_over(run_id), ARRIVAL_SECONDS)
            assert steps(service.client, run_id) == [1, 2, 3]
            told = shown(service.client, run_id)
            assert told["state"] == "failed"
            assert "killed" in told["reason"]
    return Outcome(3 * times)


_STOPS = """
eventually(lambda: spooled(reporter).last_sequence == 3)
Path("{pid}.new").write_text(str(os.getpid()))
os.rename("{pid}.new", "{pid}")
os.kill(os.getpid(), signal.SIGSTOP)
reporter.report(observed.train_and_observe())
reporter.finish(4)
reporter.close(timeout=60)
"""


def stopped_training(directory: Path, times: int, seconds: float = 0) -> Outcome:
    """The training is stopped by SIGSTOP, as a debugger or a scheduler does: what it observed arrives meanwhile.

    Args:
        seconds: how long at least.
    """
    with (
        running(directory / "store.db", "--stalled-after-seconds", "2") as service,
        Processes(directory, "tests.report.attempts") as processes,
        ThreadPoolExecutor(1) as thread,
    ):
        client, trainings = service.client, Trainings(processes)
        for number in range(times):
            run_id, pid = f"stopped {number}", directory / f"pid-{number}"
            ended = thread.submit(
                trainings.run,
                _STOPS.format(pid=pid),
                run_id,
                directory / run_id,
                client.listening.grpc_address,
            )
            eventually(pid.exists, ARRIVAL_SECONDS)
            stopped = int(pid.read_text())
            eventually(lambda stopped=stopped: _is_stopped(stopped), ARRIVAL_SECONDS)
            eventually(lambda run_id=run_id: client.metric("run_step", run=run_id) == 3, ARRIVAL_SECONDS)
            threading.Event().wait(seconds)
            eventually(lambda run_id=run_id: shown(client, run_id)["state"] == "stalled", ARRIVAL_SECONDS)
            os.kill(stopped, signal.SIGCONT)
            assert ended.result(ARRIVAL_SECONDS).status == 0
            eventually(lambda run_id=run_id: client.is_over(run_id), ARRIVAL_SECONDS)
            assert steps(client, run_id) == [1, 2, 3, 4]
            assert shown(client, run_id)["state"] == "finished"
    return Outcome(4 * times)


def _is_stopped(pid: int) -> bool:
    # After the name in brackets, which may hold anything.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
