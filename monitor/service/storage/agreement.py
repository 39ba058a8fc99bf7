"""Whether a registration agrees with the stored ones of its run, so that the counts of all attempts are comparable."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from monitor.service.errors import ContradictingRegistrationError, IncomparableAttemptError, shortened
from monitor.service.times import when
from monitor.wire.monitor_pb2 import Registration

# What makes the counts of two attempts comparable.
_COMPARABLE = ("groups", "criterion", "visible_dtype", "base.fingerprint")
_SHOWN_FIELDS = 6

HOW_TO_TELL_APART = (
    "What this training observes stays in its spool. When it has ended, report it as a run of its own: "
    "sparsity-monitor push OUTPUT_DIR --run-id NEW_ID. Give each training a run_id of its own, or none"
)
"""What to do about two trainings under one run id."""


def check_agreement(new: Registration, stored: Sequence[Registration]) -> None:
    """Accept a registration that agrees with the stored ones of the same run.

    Raises:
        ContradictingRegistrationError: its attempt is stored with other contents.
        IncomparableAttemptError: another attempt measured something else.
    """
    for other in stored:
        if other.attempt == new.attempt and (fields := _differing(other, new, _field_names())):
            raise ContradictingRegistrationError(
                f"attempt {new.attempt} of run {new.run_id!r} is registered already, by {who_has(other)}, with other "
                f"contents: {_both_values(other, new, fields)}. {HOW_TO_TELL_APART}"
            )
        if other.attempt != new.attempt and (fields := _differing(_as_measured(other), _as_measured(new), _COMPARABLE)):
            raise IncomparableAttemptError(
                f"attempt {new.attempt} of run {new.run_id!r} measures something else than attempt {other.attempt}: "
                f"{_both_values(other, new, fields)}. The counts would not be comparable: use a new run id"
            )


def who_has(registration: Registration) -> str:
    """Return which process reported an attempt, and since when.

    >>> who_has(Registration(started_at=0, start={"id": "1", "host": "gpu7", "process_id": 42}))
    'process 42 on gpu7 (since 1970-01-01 00:00:00 UTC)'
    """
    start = registration.start
    process = f"process {start.process_id} on {start.host}" if start.id else "a process"
    return f"{process} (since {when(registration.started_at)})"


def _as_measured(registration: Registration) -> Registration:
    """Leave out what two attempts may differ in although their counts mean the same.

    Layers may be frozen and thawed in between, and earlier senders did not name stacks.
    """
    compared = Registration()
    compared.CopyFrom(registration)
    for group in compared.groups:
        group.ClearField("frozen_weights")
        group.ClearField("stack")
    return compared


def _field_names() -> tuple[str, ...]:
    return tuple(field.name for field in Registration.DESCRIPTOR.fields)


def _value(registration: Registration, path: str) -> object:
    value: object = registration
    for name in path.split("."):
        value = getattr(value, name)
    return value


def _differing(stored: Registration, new: Registration, fields: Iterable[str]) -> list[str]:
    return [field for field in fields if _value(stored, field) != _value(new, field)]


def _both_values(stored: Registration, new: Registration, fields: list[str]) -> str:
    telling = [field for field in fields if field != "start"]
    shown = [_contrast(field, _value(stored, field), _value(new, field)) for field in telling[:_SHOWN_FIELDS]]
    left_out = len(telling) - len(shown)
    return ", ".join(shown) + (f" and {left_out} more fields" if left_out else "")


def _contrast(field: str, stored: object, new: object) -> str:
    """Name both values; of two lists of equal length, the first entries that differ."""
    if isinstance(stored, Sequence) and isinstance(new, Sequence) and not isinstance(stored, str):
        if len(stored) != len(new):
            return f"{field} ({len(stored)} entries stored, {len(new)} given)"
        index = next(i for i, (old, young) in enumerate(zip(stored, new, strict=True)) if old != young)
        field, stored, new = f"{field}[{index}]", stored[index], new[index]
    return f"{field} ({shortened(stored)} stored, {shortened(new)} given)"
