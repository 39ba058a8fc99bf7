"""A training that goes on while things break, and what has to hold of it afterwards."""

from __future__ import annotations

import logging
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monitor.report.reporter import Reporter
from monitor.report.spool.items import DEFAULT_MAX_BYTES
from monitor.service.web.page import count
from tests.eventually import eventually
from tests.report.attempts import ObservedModel, spooled
from tests.service.running import Client

# Scheduling on a busy machine takes some of it; waiting for a network or a disk that is away takes more.
MOST_STEP_SECONDS = 5.0
# An uploader pauses for up to 15 seconds, and so does gRPC.
ARRIVAL_SECONDS = 180.0
_MEASURED_STEPS = 20


@dataclass(frozen=True)
class Outcome:
    """What went through a fault without loss.

    Attributes:
        observations: how many arrived, each once.
        worst_hand_over: the longest time that handing one over took the training thread, in seconds.
        step_sound, step_broken: the median of a step with its observation, in seconds, while all was well and while
            something was broken; of the same training, in turns. None where that was not measured.
        left_out: how many a full spool left out, each of them counted.
    """

    observations: int
    worst_hand_over: float = 0.0
    step_sound: float | None = None
    step_broken: float | None = None
    left_out: int = 0


class Training:
    """Observes a small model, and reports to `target`."""

    def __init__(self, directory: Path, target: str, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self._worst_hand_over = 0.0
        self._steps_sound: list[float] = []
        self._steps_broken: list[float] = []
        self._is_broken = False
        self._model = ObservedModel()
        self._changed: list[tuple[int, list[int]]] = []
        self._log = _Log()
        self.reporter = Reporter(self._model.registration(), directory / "spool", target, max_bytes=max_bytes)

    @property
    def run_id(self) -> str:
        return self.reporter.key.run_id

    @property
    def steps(self) -> int:
        return self._model.step

    def train(self, steps: int = 5) -> None:
        """Take steps, and hand their observations over."""
        for _ in range(steps):
            self._step()

    def _step(self) -> float:
        started = time.perf_counter()
        observation = self._model.train_and_observe()
        self._changed.append((observation.step, observation.changed.tolist()))
        handed_over = time.perf_counter()
        self.reporter.report(observation)
        ended = time.perf_counter()
        self._worst_hand_over = max(self._worst_hand_over, ended - handed_over)
        return ended - started

    def _train_and_measure(self) -> None:
        # Without those after a pause, which are slower whatever is broken.
        taken = [self._step() for _ in range(_MEASURED_STEPS)][_MEASURED_STEPS // 4 :]
        (self._steps_broken if self._is_broken else self._steps_sound).extend(taken)

    @contextmanager
    def broken(self) -> Iterator[None]:
        """Something is broken meanwhile: train first."""
        self._is_broken = True
        try:
            self._train_and_measure()
            yield
        finally:
            self._is_broken = False

    def wait_until_known(self, problem: str) -> None:
        """Wait until the uploader has noticed a problem, of which these are words."""
        eventually(lambda: problem in spooled(self.reporter).problem, ARRIVAL_SECONDS)

    def wait_until_told(self, words: str) -> None:
        """Train on until the training's log has said something."""

        def is_told() -> bool:
            # What the spool knows of the delivery is looked at with each commit.
            self.train(1)
            return any(words in message for message in self._log.messages)

        try:
            eventually(is_told, ARRIVAL_SECONDS)
        except AssertionError as error:
            error.add_note(self._said())
            raise

    def _said(self) -> str:
        """What the training and its uploader know and have said, for whoever looks into a failure."""
        log = (self.reporter.directory / "uploader.log").read_text(encoding="utf-8", errors="replace")
        return f"spool: {spooled(self.reporter)}\ntraining: {self._log.messages}\nuploader: {log[-4000:]}"

    def wait_until_committed(self) -> None:
        """Wait until all that was observed is in the spool's file."""
        eventually(lambda: spooled(self.reporter).last_sequence == self.steps, ARRIVAL_SECONDS)

    def wait_until_some_arrived(self, client: Client) -> None:
        """Train, and wait until a part of it is with the service."""
        before = self.steps
        self._train_and_measure()
        eventually(lambda: (client.metric("run_step", run=self.run_id) or 0) > before, ARRIVAL_SECONDS)

    def go_on(self, seconds: float) -> None:
        """Train for so long, as a training does that has more to do between its steps."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._train_and_measure()
            threading.Event().wait(1)

    def wait_until_shown(self, client: Client, state: str) -> None:
        """Wait until the page says that the run is in a state."""
        eventually(lambda: shown(client, self.run_id)["state"] == state, ARRIVAL_SECONDS)

    def end(self) -> None:
        """Finish; the uploader goes on by itself."""
        self.reporter.finish(self.steps)
        self.reporter.close(timeout=0)
        self._log.close()

    def assert_whole(self, client: Client) -> Outcome:
        """Every observation is with the service, once, with its counts, and no step was held up."""
        outcome = self.assert_accounted(client)
        assert outcome.left_out == 0
        assert outcome.observations == len(self._changed)
        return outcome

    def assert_accounted(self, client: Client) -> Outcome:
        """Every observation is with the service, once, with its counts, or is one of those that count as dropped."""
        eventually(lambda: client.is_over(self.run_id), ARRIVAL_SECONDS)
        history = client.history(self.run_id)
        observed = [each.item.observation for each in history if each.item.HasField("observation")]
        expected = dict(self._changed)
        assert all(list(each.changed) == expected[each.step] for each in observed)
        numbers = [each.item.sequence for each in history]
        # All observations, and the end.
        assert len(set(numbers)) == len(numbers) == len(observed) + 1
        assert max(numbers) == len(expected) + 1
        dropped = len(expected) - len(observed)
        assert spooled(self.reporter).dropped == dropped
        # The last heartbeat comes after the end.
        eventually(lambda: client.metric("run_dropped_items", run=self.run_id) == dropped, ARRIVAL_SECONDS)
        self._assert_shown(client, len(observed), dropped)
        assert self._worst_hand_over < MOST_STEP_SECONDS
        return Outcome(
            len(observed),
            self._worst_hand_over,
            _median(self._steps_sound),
            _median(self._steps_broken),
            left_out=dropped,
        )

    def _assert_shown(self, client: Client, observations: int, dropped: int) -> None:
        """The page, and what programs are told, know of everything that arrived and of what did not."""
        # The last heartbeat comes after the end.
        eventually(lambda: shown(client, self.run_id)["unsent_items"] == 0, ARRIVAL_SECONDS)
        told = shown(client, self.run_id)
        assert (told["state"], told["step"], told["dropped_items"]) == ("finished", self.steps, dropped)
        assert told["observations"] == observations
        page = " ".join(client.http.get(f"/runs/{self.run_id}").text.split())
        assert ">finished</span>" in page
        assert f"{count(observations)} stored, 0 items unsent, {count(dropped)} dropped" in page


def shown(client: Client, run_id: str) -> dict[str, Any]:
    """What the page of a run shows, as it is asked for by programs."""
    answer = client.http.get(f"/api/v1/runs/{run_id}")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def _median(seconds: list[float]) -> float | None:
    return statistics.median(seconds) if seconds else None


class _Log(logging.Handler):
    """All that the reporting says in the training process."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.messages: list[str] = []
        logging.getLogger("monitor.report").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())

    def close(self) -> None:
        logging.getLogger("monitor.report").removeHandler(self)
        super().close()
