"""What an item must be to be stored: it has to fit the registration of its attempt, and the limits."""

from __future__ import annotations

import math

import numpy as np

from monitor.limits import MAX_INTEGER, importance
from monitor.service.errors import UnstorableItemError, how_to_raise
from monitor.service.quantities.arrays import Amounts, Arrays, Counts, counts_of
from monitor.service.recording.received import Received
from monitor.service.settings import ServiceSettings
from monitor.wire.monitor_pb2 import Finish, Registration, TrainingLog


class ItemCheck:
    """Checks the items of one attempt."""

    def __init__(self, registration: Registration, settings: ServiceSettings) -> None:
        self._settings = settings
        self._weights = counts_of([group.weights for group in registration.groups])
        self._references = [(reference.name, counts_of(reference.weights)) for reference in registration.references]
        self._tolerances = list(registration.tolerances)

    def check(self, received: Received) -> None:
        """Accept an item that can be stored.

        Raises:
            UnstorableItemError: it can never be stored.
        """
        self.check_but_observation(received)
        if received.item.HasField("observation"):
            self.check_observations(Arrays.of(received.item.observation))

    def check_but_observation(self, received: Received) -> None:
        """The same, and of an observation only what is around it.

        Raises:
            UnstorableItemError: it can never be stored.
        """
        item = received.item
        if not 1 <= item.sequence <= MAX_INTEGER:
            raise UnstorableItemError(f"sequence {item.sequence} was given; numbers count up from 1 to {MAX_INTEGER}")
        if (size := len(received.content)) > self._settings.max_request_bytes:
            raise UnstorableItemError(
                f"the item has {size} bytes; this service allows {self._settings.max_request_bytes}. "
                f"{how_to_raise('max_request_bytes')}",
                limit="max_request_bytes",
            )
        match item.WhichOneof("kind"):
            case "observation":
                pass
            case "training_log":
                _check_when(item.training_log.step, "logged_at", item.training_log.logged_at)
            case "finish":
                _check_finish(item.finish)
            case _:
                raise UnstorableItemError("the item is empty; expected an observation, a training log or a finish")

    def check_observations(self, arrays: Arrays) -> None:
        """Accept observations if all of them can be stored.

        Raises:
            UnstorableItemError: one of them never can. Of several, the message does not say which.
        """
        for observation in arrays.observations:
            _check_when(observation.step, "observed_at", observation.observed_at)
        _check_counts("trained", arrays.trained, self._weights)
        self._check_each_count(arrays, self._weights if arrays.trained is None else arrays.trained)
        self._check_measures(arrays)
        _check_synchronisations(arrays, self._weights)
        if arrays.changed_at:
            _check_length("changed_at", len(arrays.changed_at), len(self._tolerances), "tolerance")
        for tolerance, counts in zip(self._tolerances, arrays.changed_at, strict=False):
            _check_counts(f"changed_at[{tolerance}]", counts, self._weights)
        if arrays.intersections:
            _check_length("references", len(arrays.intersections), len(self._references), "reference")
        for (name, weights), counts, expected in zip(
            self._references, arrays.intersections, arrays.expected, strict=False
        ):
            _check_counts(f"intersection with {name!r}", counts, weights)
            self._check_amounts(f"expected_intersection with {name!r}", expected)

    def _check_each_count(self, arrays: Arrays, trained: Counts) -> None:
        # All at once, and only where that is not good enough, one by one.
        table = arrays.table
        if table is not None and table.shape[-1] == trained.shape[-1] and (table <= trained).all():
            return
        for name, counts in arrays.counts.items():
            # What is unmeasured is not among the trained weights; all else is counted there.
            _check_counts(name, counts, self._weights if name == "unmeasured" else trained)

    def _check_measures(self, arrays: Arrays) -> None:
        self._check_amounts("squared_norm", arrays.squared_norm)
        self._check_amounts("max_abs", arrays.max_abs)
        self._check_amounts("base_squared_norm", arrays.base_squared_norm)
        for observation in arrays.observations:
            _check_amount("host_seconds", observation.host_seconds)
            _check_amount("device_seconds", observation.device_seconds)

    def _check_amounts(self, name: str, values: Amounts | None) -> None:
        if values is None:
            return
        _check_length(name, values.shape[-1], len(self._weights), "group")
        # The least of them is NaN if any is, and then neither holds.
        if not (values.min() >= 0 and values.max() < math.inf):
            for value in values.flat:
                _check_amount(name, float(value))

    def trim(self, received: Received) -> list[str]:
        """Take out of the trainer's log, if it is one, what is beyond the limits, and return which limits those are.

        NaN and infinity stay: a loss that has become one is what the user needs to see.
        """
        if not received.item.HasField("training_log"):
            return []
        limits = self._trim(received.item.training_log)
        if limits:
            received.changed()
        return limits

    def _trim(self, log: TrainingLog) -> list[str]:
        long = [name for name in log.metrics if len(name) > self._settings.max_label_length]
        for name in long:
            del log.metrics[name]
        # A map has no order of its own.
        beyond = sorted(log.metrics, key=lambda name: (importance(name), name))[self._settings.max_training_metrics :]
        for name in beyond:
            del log.metrics[name]
        return ["max_label_length"] * bool(long) + ["max_training_metrics"] * bool(beyond)


def _check_synchronisations(arrays: Arrays, weights: Counts) -> None:
    for observation in arrays.observations:
        if not observation.HasField("synchronisation"):
            continue
        sync = observation.synchronisation
        if not sync.previous_step < sync.step <= observation.step:
            raise UnstorableItemError(
                f"a synchronisation at step {sync.step} after one at step {sync.previous_step} was given with step "
                f"{observation.step}; expected steps that rise, and none beyond the observation's"
            )
    # Not only of the trained weights: some of these may have been lost since.
    _check_counts("synchronisation.changed", arrays.synchronised, weights)


def _check_finish(finish: Finish) -> None:
    _check_when(finish.step, "finished_at", finish.finished_at)
    if finish.outcome not in (Finish.OUTCOME_FINISHED, Finish.OUTCOME_FAILED):
        raise UnstorableItemError(f"outcome {finish.outcome} was given; expected OUTCOME_FINISHED or OUTCOME_FAILED")


def _check_when(step: int, name: str, seconds: float) -> None:
    if step > MAX_INTEGER:
        raise UnstorableItemError(f"step {step} was given; expected at most {MAX_INTEGER}")
    if not (math.isfinite(seconds) and seconds >= 0):
        raise UnstorableItemError(f"{name} {seconds} was given; expected seconds since 1970-01-01 UTC")


def _check_length(name: str, given: int, expected: int, unit: str) -> None:
    if given != expected:
        raise UnstorableItemError(
            f"{name} has {given} entries; expected one per {unit} of the registration, {expected}"
        )


def _check_counts(name: str, counts: Counts | None, bounds: Counts) -> None:
    """Accept counts that are within bounds, which are the same for all observations or each one's own."""
    if counts is None:
        return
    _check_length(name, counts.shape[-1], bounds.shape[-1], "group")
    above = counts > bounds
    if above.any():
        row, group = np.unravel_index(above.argmax(), above.shape)
        most = np.broadcast_to(bounds, above.shape)[row, group]
        raise UnstorableItemError(
            f"{name} of group {group} is {counts[row, group]}; expected at most {most}, all its weights"
        )


def _check_amount(name: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise UnstorableItemError(f"{name} holds {value}; expected finite numbers from 0")
