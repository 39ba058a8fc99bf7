"""What a service takes of a run, and what a run therefore sends: one definition for both ends.

The numbers are the defaults of the service. A training that reports to one with other limits learns of them by the same
environment variables as the service, such as SPARSITY_MONITOR_MAX_GROUPS.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, fields

from monitor.environment import variable
from monitor.errors import ConfigurationError, shown
from monitor.wire.monitor_pb2 import Registration

MAX_INTEGER = 2**63 - 1
"""Largest step, and the largest sequence number: what the store's databases hold."""

MAX_REASON_LENGTH = 1000
"""Characters that are sent of the reason why a run failed, as many as any service takes; an exception may say more."""


@dataclass(frozen=True)
class Limits:
    """What a service takes at most; lengths in characters."""

    max_request_bytes: int = 8 * 1024 * 1024
    max_groups: int = 20_000
    max_references: int = 16
    max_tolerances: int = 16
    max_labels: int = 32
    max_label_length: int = 512
    max_training_metrics: int = 200

    @classmethod
    def in_force(cls) -> Limits:
        """Return the defaults, or what environment variables say instead.

        Raises:
            ConfigurationError: one of them is no number.
        """
        names = [field.name for field in fields(cls)]
        return cls(**{name: _whole_number(variable(name)) for name in names if os.environ.get(variable(name))})


def _whole_number(name: str) -> int:
    text = os.environ[name]
    if not (text.isascii() and text.isdecimal()):
        raise ConfigurationError(f"{name} is {text!r}; expected a whole number from 0, the service's own limit.")
    return int(text)


def is_run_id(run_id: str) -> bool:
    """Return whether a run can have this identity: it is part of addresses of pages.

    >>> is_run_id("grpo-1"), is_run_id("a/b"), is_run_id("..")
    (True, False, False)
    """
    return bool(run_id.strip()) and run_id.isprintable() and "/" not in run_id and run_id not in (".", "..")


def sizes(registration: Registration) -> dict[str, int]:
    """Return limit → how much of it a registration takes."""
    return {
        "max_groups": len(registration.groups),
        "max_references": len(registration.references),
        "max_tolerances": len(registration.tolerances),
        "max_labels": len(registration.labels),
    }


# What a model brings along, and nobody has chosen for this run.
_OF_MODEL = ("the name of a module", "the name of a stack of layers")


def identities(registration: Registration) -> Iterator[tuple[str, str]]:
    """Yield (what it is, text) of what is told apart by its text, which therefore cannot be shortened."""
    yield "run_id", registration.run_id
    yield "the run_id of the parent", registration.parent.run_id
    yield "the id of the start", registration.start.id
    yield from (("the key of a label", key) for key in registration.labels)
    yield from (("the name of a reference mask", reference.name) for reference in registration.references)
    yield from ((_OF_MODEL[0], group.module) for group in registration.groups)
    yield from ((_OF_MODEL[1], group.stack) for group in registration.groups)
    yield from (("the name of a library", library) for library in registration.library_versions)
    yield from (("a dtype", dtype) for dtype in (registration.visible_dtype, *registration.stored_dtypes))
    yield from (("the base's fingerprint", registration.base.fingerprint), ("the base's mode", registration.base.mode))


def texts_for_people(registration: Registration) -> Iterator[str]:
    """Yield what is only shown."""
    yield from (registration.name, registration.model, registration.base.source, registration.start.host)
    yield from registration.labels.values()
    yield from registration.library_versions.values()


def legible(text: str) -> str:
    r"""Return text that can be sent: what is no character becomes an escape, and control characters do.

    Python has paths that are not UTF-8 with such.

    >>> print(legible("réponse\x00 \udce9"))
    réponse\x00 \udce9
    """
    return "".join(each if _is_legible(each) else each.encode("unicode_escape").decode() for each in text)


def _is_legible(character: str) -> bool:
    return character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cs")


def shorten(text: str, length: int) -> str:
    """Return text of at most `length` characters, with an ellipsis where something is missing.

    >>> shorten("a long name", 6)
    'a lon…'
    """
    return text if len(text) <= length else text[: length - 1] + "…"


_FIRST = ("loss", "reward", "learning_rate", "grad_norm")


def importance(metric: str) -> int:
    """Return where one of the trainer's metrics stands when not all fit, the most important ones first.

    >>> sorted(["clip_ratio", "eval_reward", "loss"], key=importance)
    ['loss', 'eval_reward', 'clip_ratio']
    """
    plain = metric.removeprefix("eval_").removeprefix("train_")
    return _FIRST.index(plain) if plain in _FIRST else len(_FIRST)


_LESS = {
    "max_groups": "Measure fewer modules with `include` or `exclude`",
    "max_references": "Give fewer reference masks",
    "max_tolerances": "Give fewer tolerances",
    "max_labels": "Give fewer labels",
    "max_label_length": "Choose a shorter one",
    "max_request_bytes": "Measure fewer modules with `include` or `exclude`, or give fewer reference masks",
}


def check_size(given: int, said: str, limit: str, limits: Limits, less: str = "") -> None:
    """Accept a number of something that the service takes.

    Args:
        given: the number.
        said: a clause that says it, such as "33 labels are given".
        limit: name of the limit.
        less: what to do about it, where that is something else than usual.

    Raises:
        ConfigurationError: it is too large; the message names the limit, and what to do.
    """
    allowed: int = getattr(limits, limit)
    if given > allowed:
        raise ConfigurationError(
            f"{said}, and a service takes at most {allowed:,}. {less or _LESS[limit]}; or {how_to_allow(limit)}."
        )


def how_to_allow(limit: str) -> str:
    """Return what to do so that a larger limit holds on both ends."""
    option = limit.replace("_", "-")
    return f"start the service with a larger --{option}, and set {variable(limit)} to the same number where you train"


def check_identity(text: object, what: str, limits: Limits) -> None:
    """Accept a text that tells things apart, which therefore is sent as it is.

    Raises:
        ConfigurationError: it is no text, or too long, or holds what cannot be sent.
    """
    if not isinstance(text, str):
        raise ConfigurationError(f"{what} is {shown(text)}; expected text.")
    if any(unicodedata.category(each) == "Cs" for each in text):
        raise ConfigurationError(f"{what} is {shown(text)}, which is no valid Unicode; choose one that is.")
    said = f"{what} {shown(text)} has {len(text):,} characters"
    less = "Rename it, or leave it out with `exclude`" if what in _OF_MODEL else ""
    check_size(len(text), said, "max_label_length", limits, less)


def check_run_id(run_id: object, limits: Limits) -> None:
    """Accept what can be the identity of a run.

    Raises:
        ConfigurationError: it cannot.
    """
    check_identity(run_id, "run_id", limits)
    if not is_run_id(str(run_id)):
        raise ConfigurationError(f"run_id is {shown(run_id)}; expected printable characters without '/'.")
