"""What the rows of the store's tables hold: attempts and items as they come over the wire."""

from __future__ import annotations

from typing import cast

from monitor.wire.monitor_pb2 import Finish, Item, Observation, Registration, TrainingLog


def attempt_row(registration: Registration, now: float) -> dict[str, object]:
    """Return the row of an attempt that begins."""
    return {
        "run_id": registration.run_id,
        "attempt": registration.attempt,
        "resumed_from_step": registration.resumed_from_step,
        "registration": registration.SerializeToString(),
        "registered_at": now,
        "heard_at": now,
        "unsent_items": 0,
        "dropped_items": 0,
    }


def item_row(run_id: str, attempt: int, item: Item, content: bytes) -> dict[str, object]:
    """Return the row of an item, of which these are the bytes."""
    kind = cast(str, item.WhichOneof("kind"))
    told: Observation | TrainingLog | Finish = getattr(item, kind)
    return {
        "run_id": run_id,
        "attempt": attempt,
        "sequence": item.sequence,
        "kind": kind,
        "step": told.step,
        "time": occurred_at(item),
        "item": content,
    }


def occurred_at(item: Item) -> float:
    """Return when the item happened, by the sender's clock, in seconds since 1970-01-01 UTC."""
    match item.WhichOneof("kind"):
        case "observation":
            return item.observation.observed_at
        case "training_log":
            return item.training_log.logged_at
        case _:
            return item.finish.finished_at
