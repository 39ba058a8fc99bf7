"""What a token allows, and what is asked of whoever calls.

A call that is in no table here needs the scope of everything, an address the scope to read.
"""

from __future__ import annotations

from enum import StrEnum

from monitor.wire.monitor_pb2 import DESCRIPTOR


class Scope(StrEnum):
    """What a token allows."""

    WRITE = "write"
    READ = "read"
    METRICS = "metrics"
    ADMINISTER = "administer"


_INCLUDED = {
    Scope.READ: {Scope.READ, Scope.METRICS},
    Scope.ADMINISTER: set(Scope),
}
_SERVICE = DESCRIPTOR.services_by_name["MonitorService"].full_name
_REFLECTION = "/grpc.reflection."
_CALLS: dict[str, Scope | None] = {
    f"/{_SERVICE}/RegisterRun": Scope.WRITE,
    f"/{_SERVICE}/Report": Scope.WRITE,
    f"/{_SERVICE}/ListRuns": Scope.READ,
    f"/{_SERVICE}/ReadHistory": Scope.READ,
    "/grpc.health.v1.Health/Check": None,
    "/grpc.health.v1.Health/Watch": None,
}
# Whoever starts and stops services asks for the first two, a browser that logs in for the others.
_OPEN_PATHS = frozenset({"/healthz", "/readyz", "/login", "/logout", "/style.css", "/icon.svg", "/favicon.ico"})


def allows(scopes: frozenset[Scope], wanted: Scope) -> bool:
    """Return whether a token with these scopes is enough.

    >>> allows(frozenset({Scope.READ}), Scope.METRICS), allows(frozenset({Scope.WRITE}), Scope.READ)
    (True, False)
    """
    return any(wanted in _INCLUDED.get(scope, {scope}) for scope in scopes)


def scope_of_call(method: str, *, reflection: bool) -> Scope | None:
    """Return what a gRPC method asks for, None where it is open to all."""
    if method.startswith(_REFLECTION) and reflection:
        return Scope.READ
    return _CALLS.get(method, Scope.ADMINISTER)


def scope_of_path(path: str) -> Scope | None:
    """Return what an address over HTTP asks for, None where it is open to all."""
    if path in _OPEN_PATHS:
        return None
    return Scope.METRICS if path == "/metrics" else Scope.READ
