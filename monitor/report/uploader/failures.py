"""Why a try to deliver failed: in words, and whether trying again can help, at the same address or at another one."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

import grpc

from monitor.errors import ConfigurationError
from monitor.terminal import printable
from monitor.wire.channel import NO_ACCESS, OTHER_PROTOCOL, failure

TryError = grpc.aio.AioRpcError | ConnectionResetError | TimeoutError | ConfigurationError
"""What a try raises that failed."""

# Of the run itself, so that every service that has its store says the same. FAILED_PRECONDITION: another training has
# its identity, or is not comparable.
_OF_RUN = frozenset(
    {grpc.StatusCode.ALREADY_EXISTS, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.INVALID_ARGUMENT}
)


class Lasts(Enum):
    """What has to change before a try can succeed."""

    PASSES = "nothing that anybody has to do: the network, a service that restarts or stands by"
    WITHOUT_ACCESS = "the token or the certificates, which are read anew at each try"
    AT_ADDRESS = "what listens at this address; another address may take the run"
    WITH_RUN = "the run, or what the services take"


class Failure(NamedTuple):
    """One try that failed.

    Attributes:
        text: why, for people.
        lasts: until what.
    """

    text: str
    lasts: Lasts

    @property
    def kind(self) -> str:
        """Its text without details: gRPC reports another address of the same host at each try."""
        return self.text.partition(": ")[0]


def failure_of(target: str, error: TryError) -> Failure:
    """Return why a try at one address failed."""
    if isinstance(error, ConfigurationError):
        return Failure(f"the service at {target} was not asked: {error}", Lasts.WITHOUT_ACCESS)
    if isinstance(error, TimeoutError):
        silent = (
            f"the service at {target} takes connections and does not acknowledge what it is sent. "
            "It may be stopped, or something between here and there swallows the answers"
        )
        return Failure(silent, Lasts.PASSES)
    if isinstance(error, ConnectionResetError):
        return Failure(f"the service at {target} closed the connection", Lasts.PASSES)
    return Failure(failure(target, error), _lasts(error))


def _lasts(error: grpc.aio.AioRpcError) -> Lasts:
    code, details = error.code(), printable(str(error.details()))
    if code in NO_ACCESS:
        return Lasts.WITHOUT_ACCESS
    if code is grpc.StatusCode.UNIMPLEMENTED or details.startswith(OTHER_PROTOCOL):
        return Lasts.AT_ADDRESS
    return Lasts.WITH_RUN if code in _OF_RUN else Lasts.PASSES
