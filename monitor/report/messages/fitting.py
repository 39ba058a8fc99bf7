"""What a run tells about itself, made to fit what a service takes: before anything is trained, not after it was."""

from __future__ import annotations

from monitor.errors import ConfigurationError
from monitor.limits import Limits, check_identity, check_run_id, check_size, identities, shorten, sizes
from monitor.wire import monitor_pb2 as pb

# What is around a registration in a request.
_ENVELOPE_BYTES = 32

_NAMED = {
    "max_groups": "modules (groups) are measured",
    "max_references": "reference masks are given",
    "max_tolerances": "tolerances are given",
    "max_labels": "labels are given",
}


def fit(registration: pb.Registration) -> None:
    """Shorten, in place, what is for people; refuse what a service would refuse for good.

    Raises:
        ConfigurationError: something that tells this run, or a part of it, from others is too long, too much or
            unreadable; the message names the limit.
    """
    limits = Limits.in_force()
    _shorten_texts(registration, limits.max_label_length)
    for limit, given in sizes(registration).items():
        check_size(given, f"{given:,} {_NAMED[limit]}", limit, limits)
    check_run_id(registration.run_id, limits)
    for what, text in identities(registration):
        check_identity(text, what, limits)
    _check_stacks(registration)
    size = registration.ByteSize() + _ENVELOPE_BYTES
    check_size(size, f"the description of the run takes {size:,} bytes", "max_request_bytes", limits)


def _shorten_texts(registration: pb.Registration, length: int) -> None:
    registration.name = shorten(registration.name, length)
    registration.model = shorten(registration.model, length)
    registration.base.source = shorten(registration.base.source, length)
    if registration.HasField("start"):
        registration.start.host = shorten(registration.start.host, length)
    for texts in (registration.labels, registration.library_versions):
        for name, text in list(texts.items()):
            texts[name] = shorten(text, length)


def _check_stacks(registration: pb.Registration) -> None:
    for group in registration.groups:
        if group.stack != group.stack.strip():
            raise ConfigurationError(
                f"a stack of layers is called {group.stack!r}, with spaces around its name, which a service does not "
                "take. Rename the module."
            )
