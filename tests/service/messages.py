"""Messages as a sender would send them, about a model of two layers and an embedding."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any, TypeVar

from google.protobuf.message import Message

from monitor.wire import PROTOCOL_VERSION
from monitor.wire import monitor_pb2 as pb

M = TypeVar("M", bound=Message)

WEIGHTS = (1000, 600, 400)
_numbers = itertools.count(1)


def new_run_id() -> str:
    """A run id that no other test has: many share one service."""
    return f"run-{next(_numbers)}"


def registration(run_id: str = "run", attempt: int = 1, **changes: Any) -> pb.Registration:
    """A registration with one reference mask and two tolerances."""
    message = pb.Registration(
        run_id=run_id,
        attempt=attempt,
        name="a run",
        model="an-organisation/a-model",
        base=pb.Base(source="an-organisation/a-model", fingerprint="abc123", mode="device"),
        labels={"algorithm": "grpo", "seed": "1"},
        groups=groups(),
        references=[pb.Reference(name="other seed", weights=[100, 60, 40])],
        criterion=pb.Criterion(bits=pb.Criterion.Bits()),
        tolerances=[1e-5, 1e-4],
        visible_dtype="bfloat16",
        base_squared_norm=[0, 900, 1600],
        stored_dtypes=["bfloat16", "float32"],
        library_versions={"torch": "2.6.0"},
        started_at=1.7e9,
    )
    if "groups" in changes:
        changes = {"base_squared_norm": [], **changes}
    return changed(message, **changes)


def groups() -> list[pb.Group]:
    embedding, first, last = WEIGHTS
    return [
        pb.Group(module="embed_tokens", weights=embedding, frozen_weights=embedding),
        pb.Group(layer=0, module="mlp", weights=first),
        pb.Group(layer=1, module="mlp", weights=last),
    ]


def stacked_groups() -> list[pb.Group]:
    """The same groups, where the layers are of two stacks that each have one."""
    embedding, first, last = groups()
    return [
        embedding,
        changed(first, stack="encoder", module="encoder.mlp"),
        changed(last, stack="decoder", layer=0),
    ]


def changed(message: M, **changes: Any) -> M:
    """The message with other fields; a list or a mapping replaces the one that was there."""
    for name in changes:
        message.ClearField(name)
    message.MergeFrom(type(message)(**changes))
    return message


def observation(step: int = 1, **changes: Any) -> pb.Observation:
    """An observation that measured everything."""
    message = pb.Observation(
        step=step,
        observed_at=1.7e9 + step,
        stride=1,
        changed=[0, 30, 20],
        newly_changed=[0, 3, 2],
        reverted=[0, 2, 1],
        step_changed=[0, 6, 4],
        touched=[0, 60, 40],
        hidden=[0, 300, 200],
        non_finite=[0, 0, 1],
        changed_at=[pb.Counts(weights=[0, 10, 10]), pb.Counts(weights=[0, 1, 1])],
        references=[pb.ReferenceCounts(intersection=[0, 9, 6], expected_intersection=[0, 3, 2])],
        squared_norm=[0, 9, 16],
        max_abs=[0, 0.5, 0.25],
        synchronisation=None if step == 0 else pb.Synchronisation(step=step, previous_step=step - 1, changed=[0, 7, 5]),
        host_seconds=0.001,
        device_seconds=0.002,
        monitor_bytes=4000,
    )
    return changed(message, **changes)


def observed(sequence: int, step: Any = None, **changes: Any) -> pb.Item:
    return pb.Item(sequence=sequence, observation=observation(sequence if step is None else step, **changes))


def logged(sequence: int, step: Any = None, **metrics: float) -> pb.Item:
    step = sequence if step is None else step
    return pb.Item(sequence=sequence, training_log=pb.TrainingLog(step=step, logged_at=1.7e9 + step, metrics=metrics))


def finished(sequence: int, step: int = 0, reason: str = "") -> pb.Item:
    outcome = pb.Finish.OUTCOME_FAILED if reason else pb.Finish.OUTCOME_FINISHED
    return pb.Item(
        sequence=sequence, finish=pb.Finish(outcome=outcome, reason=reason, step=step, finished_at=1.7e9 + step)
    )


def register_request(message: pb.Registration, version: int = PROTOCOL_VERSION) -> pb.RegisterRunRequest:
    return pb.RegisterRunRequest(protocol_version=version, registration=message)


def opening(run_id: str, attempt: int = 1) -> pb.ReportRequest:
    return pb.ReportRequest(open=pb.Open(run_id=run_id, attempt=attempt))


def stream_of(run_id: str, items: Iterable[pb.Item], attempt: int = 1) -> list[pb.ReportRequest]:
    """The requests of a stream that brings these items."""
    return [opening(run_id, attempt), *(pb.ReportRequest(item=item) for item in items)]


def together(items: Iterable[pb.Item]) -> pb.ReportRequest:
    """One request that brings several items."""
    return pb.ReportRequest(items=pb.Items(items=[item.SerializeToString() for item in items]))


def heartbeat(unsent: int = 0, dropped: int = 0) -> pb.ReportRequest:
    return pb.ReportRequest(heartbeat=pb.Heartbeat(sent_at=1.7e9, unsent_items=unsent, dropped_items=dropped))
