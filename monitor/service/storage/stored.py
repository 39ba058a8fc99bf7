"""What the store takes and gives back: batches, items with their place in the history, and runs as it knows them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from monitor.limits import MAX_INTEGER
from monitor.service.storage.tables.index_rows import Rows
from monitor.wire.monitor_pb2 import Finish, Heartbeat, Item, Registration


class Position(NamedTuple):
    """Where an item stands in the history of its run."""

    step: int
    attempt: int
    sequence: int


START = Position(-1, 0, 0)


def after_step(step: int) -> Position:
    """Return the position behind the last item of `step`."""
    return Position(min(step, MAX_INTEGER), MAX_INTEGER, MAX_INTEGER)


class Storable(NamedTuple):
    """An item that can be stored, with what is stored of it: its bytes, and what the index has of it."""

    item: Item
    content: bytes
    indexed: Rows


@dataclass(frozen=True, slots=True)
class Batch:
    """What one stream brings at once, of one attempt; `heartbeat` is the latest one, if there is any."""

    run_id: str
    attempt: int
    items: Sequence[Storable] = ()
    heartbeat: Heartbeat | None = None

    @property
    def key(self) -> tuple[str, int]:
        """The run and the attempt."""
        return self.run_id, self.attempt

    @property
    def brings_observation(self) -> bool:
        """Whether any of the items is one."""
        return any(each.item.HasField("observation") for each in self.items)

    def first_of(self, sequences: Iterable[int]) -> list[Storable]:
        """Return the items with these numbers, in their order; of those that came twice, the first."""
        first = {each.item.sequence: each for each in reversed(self.items)}
        return [first[sequence] for sequence in sorted(sequences)]


@dataclass(frozen=True, slots=True)
class StoredItem:
    """An item with the attempt it belongs to."""

    position: Position
    item: Item


@dataclass(frozen=True, slots=True)
class Thinned:
    """What was taken out between the observations of a run.

    Attributes:
        every: at least one in so many is left, the first and the last besides.
        until_step: up to which that is so; behind it every observation is there.
        removed: how many were taken out that no later attempt had superseded.
    """

    every: int
    until_step: int
    removed: int


@dataclass(frozen=True, slots=True)
class StoredRun:
    """What the store knows of a run, without its history.

    Attributes:
        registrations: by attempt. Of the latest attempt are the times, by the service's clock, the counts and `finish`.
        observation: the one with the greatest step that no later attempt superseded; `logs` likewise, latest last.
        observations: number of those that are not superseded.
        observed_at: when the observations of the latest attempt were made, by the run's clock, in the order of their
            numbers; none of an attempt that has ended.
        thinned: None where no observation was taken out.
        deleted_at: when all that it had reported was deleted, by the service's clock; None where it was not.
    """

    registrations: dict[int, Registration]
    registered_at: float
    heard_at: float
    observation_heard_at: float | None
    unsent_items: int
    dropped_items: int
    observation: StoredItem | None
    logs: list[StoredItem]
    finish: Finish | None
    observations: int
    observed_at: list[float]
    thinned: Thinned | None = None
    deleted_at: float | None = None
