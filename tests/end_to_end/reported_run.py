"""A run that reports over gRPC as a training would, without one: what it changes is up to the test."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from monitor.wire import monitor_pb2 as pb
from tests.service.messages import finished, heartbeat, opening, registration
from tests.service.running import Client, OpenStream

MODULES = ("q_proj", "k_proj", "mlp")
_STACKS = {"encoder": "encoder.", "decoder": ""}
_GROUP_WEIGHTS = 10_000
_REFERENCE_WEIGHTS = 2_000
_STEPS = 10
_SECONDS_BETWEEN = 0.25


class ReportedRun:
    """Encoder and decoder of two layers with three modules each, and an embedding, observed four times a second.

    There are ten steps between observations.

    Attributes:
        cumulative_density, step_density, lift: what the next observations show.
    """

    def __init__(self, client: Client, name: str) -> None:
        self.run_id = f"{name}-0001"
        self.cumulative_density = 0.05
        self.step_density = 0.01
        self.lift = 2.0
        self._groups = [
            pb.Group(module="embed_tokens", weights=_GROUP_WEIGHTS),
            *(
                pb.Group(layer=layer, module=path + module, weights=_GROUP_WEIGHTS, stack=stack)
                for stack, path in _STACKS.items()
                for layer in range(2)
                for module in MODULES
            ),
        ]
        count = len(self._groups)
        reference = pb.Reference(name="other seed", weights=[_REFERENCE_WEIGHTS] * count)
        now = time.time()
        client.register(
            registration(
                self.run_id,
                name=name,
                groups=self._groups,
                references=[reference],
                started_at=now,
                planned_steps=1000,
                base_squared_norm=[100.0] * count,
            )
        )
        self._stream = OpenStream(client)
        self._stream.send(opening(self.run_id))
        self._sequence = 0
        self._step = 0

    def _next(self) -> int:
        self._sequence += 1
        return self._sequence

    def _each(self, value: float) -> list[int]:
        return [round(value)] * len(self._groups)

    def observe(self) -> None:
        self._step += _STEPS
        changed = self.cumulative_density * _GROUP_WEIGHTS
        expected = changed * _REFERENCE_WEIGHTS / _GROUP_WEIGHTS
        overlap = pb.ReferenceCounts(
            intersection=self._each(min(self.lift * expected, _REFERENCE_WEIGHTS)),
            expected_intersection=[expected] * len(self._groups),
        )
        observation = pb.Observation(
            step=self._step,
            observed_at=time.time(),
            stride=_STEPS,
            changed=self._each(changed),
            newly_changed=self._each(30),
            reverted=self._each(20),
            step_changed=self._each(self.step_density * _GROUP_WEIGHTS),
            touched=self._each(changed + 100),
            hidden=self._each(1000),
            non_finite=self._each(0),
            changed_at=[pb.Counts(weights=self._each(changed / 2)), pb.Counts(weights=self._each(changed / 4))],
            references=[overlap],
            squared_norm=[0.01] * len(self._groups),
            max_abs=[0.001] * len(self._groups),
            synchronisation=pb.Synchronisation(
                step=self._step,
                previous_step=self._step - _STEPS,
                changed=self._each(self.step_density * _GROUP_WEIGHTS),
            ),
            host_seconds=0.0001,
            device_seconds=0.001,
            monitor_bytes=5 * _GROUP_WEIGHTS,
        )
        log = pb.TrainingLog(step=self._step, logged_at=time.time(), metrics={"loss": 0.5, "reward": 1.0})
        self._send(pb.Item(sequence=self._next(), observation=observation))
        self._send(pb.Item(sequence=self._next(), training_log=log))
        self._stream.send(heartbeat())

    def finish(self) -> None:
        self._send(finished(self._next(), self._step))
        self._stream.end()

    def _send(self, item: pb.Item) -> None:
        self._stream.send(pb.ReportRequest(item=item))


@contextmanager
def reporting(client: Client, name: str) -> Iterator[ReportedRun]:
    """Let a run report until the context ends; then it finishes."""
    run = ReportedRun(client, name)
    ended = threading.Event()

    def report() -> None:
        while not ended.is_set():
            run.observe()
            ended.wait(_SECONDS_BETWEEN)

    thread = threading.Thread(target=report)
    thread.start()
    try:
        yield run
    finally:
        ended.set()
        thread.join()
        run.finish()
