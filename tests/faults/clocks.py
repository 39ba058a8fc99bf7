"""What happens to clocks: that of a service jumps, and that of a training is apart from it, and jumps."""

from __future__ import annotations

import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

from tests.eventually import eventually
from tests.faults.clock import Clock
from tests.faults.services import LOST_SOON, running
from tests.faults.training import ARRIVAL_SECONDS, Outcome, Training, shown
from tests.processes import Processes
from tests.report.attempts import Trainings, uploader_of
from tests.service.messages import finished, observed, registration
from tests.service.running import Client

_DAY = 86400.0
_HOURS = 5 * 3600.0
# On a busy machine, heartbeats and observations are on their way for a while.
_TOLERATED_SECONDS = 600.0
# The service looks once a minute what is to be removed by its age.
_SWEEP_SECONDS = 65.0


def jumping_service(directory: Path, times: int) -> Outcome:
    """The clock of the service jumps by a day, back and ahead in turns, while a run is silent; then it is set right.

    The run is lost meanwhile and then it is not, its own clock is told to be apart, and nothing is removed by its age.
    """
    clock = Clock(directory)
    with running(
        directory / "store.db", *LOST_SOON, "--retain-days", "0.5", env={**os.environ, **clock.environment}
    ) as service:
        client = service.client
        client.register(registration("ended"))
        client.send("ended", [observed(1), finished(2)])
        training = Training(directory, client.listening.grpc_address)
        for number in range(times):
            ahead = _DAY if number % 2 else -_DAY
            training.wait_until_some_arrived(client)
            uploader = uploader_of(training.reporter)
            os.kill(uploader, signal.SIGSTOP)
            clock.set(ahead)
            with training.broken():
                training.wait_until_shown(client, "lost")
                os.kill(uploader, signal.SIGCONT)
                training.wait_until_shown(client, "running")
                training.wait_until_some_arrived(client)
                _wait_until_apart(client, training.run_id, -ahead)
                if number == 1:
                    training.go_on(_SWEEP_SECONDS)
            clock.set(0)
        training.end()
        outcome = training.assert_whole(client)
        assert shown(client, "ended")["observations"] == 1
        assert times == 1 or "the clock of this machine was set by" in service.close()
        return outcome


_TRAINS = """
import json, threading

changed = []
while not Path("{stop}").exists():
    observation = observed.train_and_observe()
    changed.append([observation.step, observation.changed.tolist()])
    reporter.report(observation)
    threading.Event().wait(0.05)
Path("{told}").write_text(json.dumps(changed))
reporter.finish(observed.step)
reporter.close(timeout=60)
"""


def training_apart(directory: Path, times: int) -> Outcome:
    """The clock of a training is hours ahead of the service's, or behind in turns, and jumps to the other side."""
    clock, arrived = Clock(directory), 0
    with (
        running(directory / "store.db") as service,
        mock.patch.dict(os.environ, clock.environment),
        Processes(directory, "tests.report.attempts") as processes,
        ThreadPoolExecutor(1) as thread,
    ):
        client, trainings = service.client, Trainings(processes)
        for number in range(times):
            run_id, stop, told = f"apart {number}", directory / f"stop-{number}", directory / f"told-{number}"
            ahead = -_HOURS if number % 2 else _HOURS
            clock.set(ahead)
            end = _TRAINS.format(stop=stop, told=told)
            ended = thread.submit(trainings.run, end, run_id, directory / run_id, client.listening.grpc_address)
            try:
                _wait_for_steps(client, run_id, 10)
                _wait_until_apart(client, run_id, ahead)
                started = client.metric("run_started_timestamp_seconds", run=run_id)
                assert started is not None
                assert started <= time.time()
                clock.set(-ahead)
                _wait_for_steps(client, run_id, int(client.metric("run_step", run=run_id) or 0) + 20)
            finally:
                stop.touch()
            assert ended.result(ARRIVAL_SECONDS).status == 0
            eventually(lambda run_id=run_id: client.is_over(run_id), ARRIVAL_SECONDS)
            arrived += _assert_whole(client, run_id, dict(json.loads(told.read_text())))
    return Outcome(arrived)


def _wait_for_steps(client: Client, run_id: str, step: int) -> None:
    eventually(lambda: (client.metric("run_step", run=run_id) or 0) >= step, ARRIVAL_SECONDS)
    assert shown(client, run_id)["state"] == "running"


def _wait_until_apart(client: Client, run_id: str, ahead: float) -> None:
    """Wait until it is told that the run's clock is so far ahead of the service's; its times are told by the latter."""

    def is_told() -> bool:
        told = shown(client, run_id)["clock_ahead_seconds"]
        return told is not None and abs(told - ahead) < _TOLERATED_SECONDS

    eventually(is_told, ARRIVAL_SECONDS)
    direction = "ahead of" if ahead > 0 else "behind"
    page = " ".join(client.http.get(f"/runs/{run_id}").text.split())
    assert f"seconds {direction} the service's. Its start and its observations" in page
    heard = client.metric("run_last_heard_timestamp_seconds", run=run_id)
    made = client.metric("run_last_observation_timestamp_seconds", run=run_id)
    assert heard is not None
    assert made is not None
    assert abs(made - heard) < _TOLERATED_SECONDS


def _assert_whole(client: Client, run_id: str, changed: dict[int, list[int]]) -> int:
    """Every observation is with the service, once, with its counts; return how many."""
    history = [each.item.observation for each in client.history(run_id) if each.item.HasField("observation")]
    # The first three are taken before those that are noted.
    assert [each.step for each in history] == list(range(1, 4 + len(changed)))
    assert {each.step: list(each.changed) for each in history[3:]} == changed
    assert shown(client, run_id)["state"] == "finished"
    return len(history)
