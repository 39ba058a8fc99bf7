"""What a target says: whether the connection is encrypted, and which hosts it names. Imports no gRPC."""

from __future__ import annotations

import re

from monitor.proxies import is_loopback

ENCRYPTED = "grpcs://"
"""Before host:port, in a target: the connection is encrypted, and the service shows a certificate."""

_LOCAL_SCHEMES = ("unix:", "unix-abstract:", "vsock:")
_ADDRESS_SCHEME = re.compile(r"dns:(?://[^/]*/)?|ipv4:|ipv6:|grpcs://")


def is_encrypted(target: str) -> bool:
    """Return whether nobody between here and the service can read along.

    >>> is_encrypted("grpcs://monitor.example:50051"), is_encrypted("monitor.example:50051")
    (True, False)
    """
    return target.startswith(ENCRYPTED)


def is_local(target: str) -> bool:
    """Return whether all that `target` names is on this machine."""
    if target.startswith(_LOCAL_SCHEMES):
        return True
    return not target.startswith("xds:") and all(map(is_loopback, hosts(target)))


def hosts(target: str) -> list[str]:
    """Return the hosts that `target` names.

    >>> hosts("ipv4:192.0.2.1:50051,192.0.2.2:50051"), hosts("grpcs://[::1]:50051")
    (['192.0.2.1', '192.0.2.2'], ['::1'])
    """
    addresses = _ADDRESS_SCHEME.sub("", target, count=1) if _ADDRESS_SCHEME.match(target) else target
    return [address.rpartition(":")[0].strip("[]") for address in addresses.split(",")]


def addresses(target: str) -> list[tuple[str, int]]:
    """Return host and port of each address that `target` names; none where gRPC finds the service by other means.

    >>> addresses("dns:///monitor.example:50051"), addresses("unix:/run/monitor.sock")
    ([('monitor.example', 50051)], [])
    """
    if target.startswith((*_LOCAL_SCHEMES, "xds:")):
        return []
    named = [address.rpartition(":") for address in _ADDRESS_SCHEME.sub("", target, count=1).split(",")]
    return [(host.strip("[]"), int(port)) for host, _, port in named]
