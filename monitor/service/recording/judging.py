"""Which of the items of an attempt can be stored, and what is stored of them besides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from monitor.service.errors import UnstorableItemError
from monitor.service.quantities.arrays import Arrays
from monitor.service.recording.items import ItemCheck
from monitor.service.recording.received import Received
from monitor.service.settings import ServiceSettings
from monitor.service.storage.stored import Storable
from monitor.service.storage.tables.index_rows import Index, Rows
from monitor.wire.monitor_pb2 import Registration


@dataclass(frozen=True, slots=True)
class Judgement:
    """What becomes of an item.

    Attributes:
        storable: None where it can never be stored.
        rejected: why it cannot be.
        limits: names of the settings that it went beyond.
    """

    sequence: int
    storable: Storable | None
    rejected: str | None = None
    limits: Sequence[str] = ()


class Judge:
    """Decides of the items of one attempt. They come a few at a time, and are read together."""

    def __init__(self, registration: Registration, settings: ServiceSettings) -> None:
        self._check = ItemCheck(registration, settings)
        self._index = Index(registration)

    def judge(self, items: Sequence[Received]) -> list[Judgement]:
        """Decide of some, in their order. Of a trainer's log what is beyond the limits is taken out."""
        before = [self._before_reading(received) for received in items]
        observations = [received for received, judgement in zip(items, before, strict=True) if judgement is None]
        read = self._read(observations)
        return [judgement or next(read) for judgement in before]

    def _before_reading(self, received: Received) -> Judgement | None:
        """Decide of an item, unless it is an observation that has to be read."""
        try:
            self._check.check_but_observation(received)
        except UnstorableItemError as error:
            return _rejected(received, error)
        if received.item.HasField("observation"):
            return None
        limits = self._check.trim(received)
        return _accepted(received, self._index.of(received.item), limits)

    def _read(self, observations: Sequence[Received]) -> Iterator[Judgement]:
        remaining = iter(observations)
        for arrays in Arrays.of_each(received.item.observation for received in observations):
            yield from self._judge(list(islice(remaining, len(arrays.observations))), arrays)

    def _judge(self, observations: Sequence[Received], arrays: Arrays) -> Iterator[Judgement]:
        try:
            self._check.check_observations(arrays)
        except UnstorableItemError as error:
            if len(observations) == 1:
                yield _rejected(observations[0], error)
                return
            # Which of them it is, each says by itself.
            for received in observations:
                yield from self._judge([received], Arrays.of(received.item.observation))
            return
        sequences = [received.item.sequence for received in observations]
        for received, rows in zip(observations, self._index.of_observations(sequences, arrays), strict=True):
            yield _accepted(received, rows)


def _accepted(received: Received, indexed: Rows, limits: Sequence[str] = ()) -> Judgement:
    item = received.item
    return Judgement(item.sequence, Storable(item, received.content, indexed), limits=limits)


def _rejected(received: Received, error: UnstorableItemError) -> Judgement:
    return Judgement(received.item.sequence, None, str(error), [error.limit] if error.limit else [])
