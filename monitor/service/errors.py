"""The service's own errors, and the words that their messages share: what was given, what was expected, what to do."""

from __future__ import annotations

from monitor.errors import SparsityMonitorError

_SHOWN_CHARACTERS = 80


class ServiceError(SparsityMonitorError):
    """Base class of every error that the service raises on purpose."""


class AddressUnavailableError(ServiceError):
    """A listening address cannot be bound."""


class AccessSettingsError(ServiceError):
    """Certificates, tokens or addresses with which the service would let in nobody, or everybody."""


class NoAccessError(ServiceError):
    """Whoever calls shows no token, or none that is good."""


class TooManyFailuresError(NoAccessError):
    """The same, again and again."""


class MissingScopeError(NoAccessError):
    """The token is good, and does not allow this."""


class StoreError(ServiceError):
    """The store cannot be opened, or a read or write of it failed. Nothing was acknowledged."""


class MissingStoreError(StoreError):
    """There is no store yet."""


class StoreVersionError(StoreError):
    """The store was written by a newer version of this program."""


class StoreInUseError(StoreError):
    """Another process serves the store."""


class LostStoreError(StoreError):
    """The connection that held the lock on the store is gone, and another service may have had the store since."""


class StandingByError(StoreError):
    """Another service has the store, and this one waits for it. Nothing is wrong."""


class ForeignStoreError(StoreError):
    """What is there belongs to another program, or is no store at all. It was left as it is."""


class ProtocolVersionError(ServiceError):
    """The sender speaks another version of the wire contract."""


class InvalidRegistrationError(ServiceError):
    """A field of a registration is missing or wrong."""


class LimitError(InvalidRegistrationError):
    """Something is larger than this service allows.

    Attributes:
        limit: name of the setting that was exceeded, such as "max_groups".
    """

    def __init__(self, message: str, limit: str) -> None:
        super().__init__(message)
        self.limit = limit


class TooManyRunsError(LimitError):
    """The service holds as many runs as it may."""


class ContradictingRegistrationError(ServiceError):
    """The attempt is registered with other contents."""


class IncomparableAttemptError(ServiceError):
    """The run measured something else in an earlier attempt, so that counts would not be comparable."""


class RunInUseError(ServiceError):
    """Another process trains the run now."""


class RunTakenError(ServiceError):
    """The run is another process's for good, which began it or trained it to its end beside this one."""


class UnknownRunError(ServiceError):
    """The run, or that attempt of it, was never registered."""


class UnstorableItemError(ServiceError):
    """The item can never be stored; sending it again will not help.

    Attributes:
        limit: name of the setting that was exceeded, or "" where the item is wrong in itself.
    """

    def __init__(self, message: str, limit: str = "") -> None:
        super().__init__(message)
        self.limit = limit


class UnreadableRequestError(ServiceError):
    """The bytes of a request are no message of the contract."""


class RequestOrderError(ServiceError):
    """A request on a stream that comes out of turn."""


class StoppingError(ServiceError):
    """The service shuts down."""


def over_limit(given: str, allowed: int, limit: str) -> LimitError:
    """Return the error for something that is larger than the setting `limit` allows."""
    return LimitError(f"{given} given; this service allows {allowed}. {how_to_raise(limit)}", limit)


def how_to_raise(limit: str) -> str:
    """Return the sentence that tells what to do about a limit."""
    return f"Send less, or start the service with a larger --{limit.replace('_', '-')}"


def shortened(value: object) -> str:
    """Return a value for a message, on one line and not too long."""
    text = repr(value) if isinstance(value, str) else " ".join(str(value).split())
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"
