"""Where the service is: "host:port", checked before training starts."""

from __future__ import annotations

import re

from monitor.errors import ConfigurationError, shown

_TARGET = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(?P<port>\d{1,5})")


def check_target(target: str) -> str:
    """Return `target` if it has the form host:port.

    >>> check_target("monitor.example:50051")
    'monitor.example:50051'

    Raises:
        ConfigurationError: it has not.
    """
    match = _TARGET.fullmatch(target) if isinstance(target, str) else None
    if match is None or not 0 < int(match["port"]) < 65536:
        hint = " Leave the scheme away." if "://" in str(target) else ""
        raise ConfigurationError(
            f"target is {shown(target)}; expected the gRPC address of the service as host:port, such as "
            f'"localhost:50051".{hint}'
        )
    return target
