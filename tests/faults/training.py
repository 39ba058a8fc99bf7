"""A training that goes on while things break, and what has to hold of it afterwards."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path

from monitor.report.reporter import Reporter
from tests.eventually import eventually
from tests.report.attempts import ObservedModel, spooled
from tests.service.running import Client

# Scheduling on a busy machine takes some of it; waiting for a network or a disk that is away takes more.
MOST_STEP_SECONDS = 5.0
# An uploader pauses for up to 15 seconds, and so does gRPC.
ARRIVAL_SECONDS = 180.0


@dataclass(frozen=True)
class Outcome:
    """What went through a fault without loss.

    Attributes:
        observations: how many arrived, each once.
        worst_step_seconds: the longest time that handing one over took the training thread.
    """

    observations: int
    worst_step_seconds: float


class Training:
    """Observes a small model, and reports to `target`."""

    def __init__(self, directory: Path, target: str) -> None:
        self.worst_step_seconds = 0.0
        self._model = ObservedModel()
        self._changed: list[tuple[int, list[int]]] = []
        self._log = _Log()
        self.reporter = Reporter(self._model.registration(), directory / "spool", target)

    @property
    def run_id(self) -> str:
        return self.reporter.key.run_id

    @property
    def steps(self) -> int:
        return self._model.step

    def train(self, steps: int = 5) -> None:
        """Take steps, and hand their observations over."""
        for _ in range(steps):
            observation = self._model.train_and_observe()
            self._changed.append((observation.step, observation.changed.tolist()))
            started = time.perf_counter()
            self.reporter.report(observation)
            self.worst_step_seconds = max(self.worst_step_seconds, time.perf_counter() - started)

    def wait_until_known(self, problem: str) -> None:
        """Wait until the uploader has noticed a problem, of which these are words."""
        eventually(lambda: problem in spooled(self.reporter).problem, ARRIVAL_SECONDS)

    def wait_until_told(self, words: str) -> None:
        """Train on until the training's log has said something."""

        def is_told() -> bool:
            # What the spool knows of the delivery is looked at with each commit.
            self.train(1)
            return any(words in message for message in self._log.messages)

        eventually(is_told, ARRIVAL_SECONDS)

    def wait_until_some_arrived(self, client: Client) -> None:
        """Train, and wait until a part of it is with the service."""
        before = self.steps
        self.train()
        eventually(lambda: (client.metric("run_step", run=self.run_id) or 0) > before, ARRIVAL_SECONDS)

    def end(self) -> None:
        """Finish; the uploader goes on by itself."""
        self.reporter.finish(self.steps)
        self.reporter.close(timeout=0)
        self._log.close()

    def assert_whole(self, client: Client) -> Outcome:
        """Every observation is with the service, once, with its counts, and no step was held up."""
        eventually(lambda: client.is_over(self.run_id), ARRIVAL_SECONDS)
        history = client.history(self.run_id)
        observed = [each.item.observation for each in history if each.item.HasField("observation")]
        assert [(each.step, list(each.changed)) for each in observed] == self._changed
        numbers = sorted(each.item.sequence for each in history)
        assert numbers == [*range(1, len(self._changed) + 2)]
        assert client.metric("run_dropped_items", run=self.run_id) == 0
        assert spooled(self.reporter).dropped == 0
        assert self.worst_step_seconds < MOST_STEP_SECONDS
        return Outcome(len(self._changed), self.worst_step_seconds)


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
