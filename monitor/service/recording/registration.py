"""What a registration must be by itself: complete, and within the limits."""

from __future__ import annotations

import math
from collections.abc import Iterable

from monitor.limits import MAX_INTEGER, Limits, identities, is_run_id, sizes, texts_for_people
from monitor.service.errors import (
    InvalidRegistrationError,
    over_limit,
    shortened,
)
from monitor.service.settings import ServiceSettings
from monitor.wire.monitor_pb2 import Registration

VISIBLE_DTYPES = ("bfloat16", "float16", "float32")


def check_registration(registration: Registration, settings: ServiceSettings) -> None:
    """Accept a registration that is complete and within the limits.

    Raises:
        InvalidRegistrationError: a field is missing or wrong.
        LimitError: something is larger than the settings allow.
    """
    _check_identity(registration)
    _check_sizes(registration, settings)
    _check_groups(registration)
    _check_references(registration)
    _check_comparison(registration)
    _check_base(registration)


def _check_identity(registration: Registration) -> None:
    run_id = registration.run_id
    if not is_run_id(run_id):
        raise InvalidRegistrationError(
            f"run_id {shortened(run_id)} was given; expected a name of printable characters without '/'"
        )
    if registration.attempt < 1:
        raise InvalidRegistrationError(f"attempt {registration.attempt} was given; attempts count up from 1")
    for name, step in (
        ("resumed_from_step", registration.resumed_from_step),
        ("parent.step", registration.parent.step),
    ):
        if step > MAX_INTEGER:
            raise InvalidRegistrationError(f"{name} {step} was given; expected at most {MAX_INTEGER}")
    if not (math.isfinite(registration.started_at) and registration.started_at >= 0):
        raise InvalidRegistrationError(
            f"started_at {registration.started_at} was given; expected seconds since 1970-01-01 UTC"
        )


def _check_sizes(registration: Registration, settings: ServiceSettings) -> None:
    for limit, given in sizes(registration).items():
        if given > (allowed := getattr(settings, limit)):
            raise over_limit(f"{given} {limit.removeprefix('max_')}", allowed, limit)
    # A sender adds these by itself: who allows fewer labels does not mean them.
    for field in ("library_versions", "stored_dtypes"):
        given, allowed = len(getattr(registration, field)), max(settings.max_labels, Limits.max_labels)
        if given > allowed:
            raise over_limit(f"{given} {field}", allowed, "max_labels")
    for text in _texts(registration):
        if len(text) > settings.max_label_length:
            raise over_limit(
                f"{shortened(text)} of {len(text)} characters", settings.max_label_length, "max_label_length"
            )


def _texts(registration: Registration) -> Iterable[str]:
    """Everything that becomes a label somewhere."""
    yield from (text for _, text in identities(registration))
    yield from texts_for_people(registration)


def _check_groups(registration: Registration) -> None:
    if not registration.groups:
        raise InvalidRegistrationError("no groups were given; expected at least one: there is nothing to count")
    seen = set()
    for group in registration.groups:
        key = (group.stack, group.layer if group.HasField("layer") else None, group.module)
        if not group.module or key in seen:
            raise InvalidRegistrationError(
                f"group {key} was given twice or has no module; expected each (stack, layer, module) once"
            )
        if group.stack != group.stack.strip() or (group.stack and not group.HasField("layer")):
            raise InvalidRegistrationError(
                f"group {key} has the stack {group.stack!r}; expected a layer of it, and no spaces around the name"
            )
        seen.add(key)
        if not group.frozen_weights <= group.weights:
            raise InvalidRegistrationError(
                f"group {key} has {group.frozen_weights} frozen weights of {group.weights}; expected no more than all"
            )
    if sum(group.weights for group in registration.groups) > MAX_INTEGER:
        raise InvalidRegistrationError(f"the groups have more than {MAX_INTEGER} weights; expected a model that exists")


def _check_references(registration: Registration) -> None:
    names = [reference.name for reference in registration.references]
    if "" in names or len(set(names)) < len(names):
        raise InvalidRegistrationError(
            f"references {shortened(names)} were given; expected different names that are not empty"
        )
    for reference in registration.references:
        if len(reference.weights) != len(registration.groups):
            raise InvalidRegistrationError(
                f"reference {reference.name!r} has {len(reference.weights)} counts; expected one per group, "
                f"{len(registration.groups)}"
            )
        for count, group in zip(reference.weights, registration.groups, strict=True):
            if count > group.weights:
                raise InvalidRegistrationError(
                    f"reference {reference.name!r} has {count} weights in {group.module!r}, which has {group.weights}"
                )


def _check_comparison(registration: Registration) -> None:
    if registration.criterion.WhichOneof("kind") is None:
        raise InvalidRegistrationError("no criterion was given; expected bits, or atol with a tolerance")
    tolerances = [registration.criterion.atol.tolerance, *registration.tolerances]
    if not all(math.isfinite(tolerance) and tolerance >= 0 for tolerance in tolerances):
        raise InvalidRegistrationError(f"tolerances {tolerances} were given; expected finite numbers from 0")
    if len(set(registration.tolerances)) < len(registration.tolerances):
        raise InvalidRegistrationError(f"tolerances {tolerances[1:]} were given; expected each only once")
    if registration.visible_dtype not in VISIBLE_DTYPES:
        raise InvalidRegistrationError(
            f"visible_dtype {registration.visible_dtype!r} was given; expected one of {', '.join(VISIBLE_DTYPES)}"
        )


def _check_base(registration: Registration) -> None:
    squares = registration.base_squared_norm
    if squares and len(squares) != len(registration.groups):
        raise InvalidRegistrationError(
            f"base_squared_norm has {len(squares)} entries; expected one per group, {len(registration.groups)}"
        )
    if not all(math.isfinite(each) and each >= 0 for each in squares):
        raise InvalidRegistrationError(f"base_squared_norm {list(squares)} was given; expected finite numbers from 0")
