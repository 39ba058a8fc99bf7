"""What a target says: which services and hosts it names, and whether the connection is encrypted. Imports no gRPC."""

from __future__ import annotations

import re

from monitor.proxies import is_loopback

ENCRYPTED = "grpcs://"
"""Before host:port, in a target: the connection is encrypted, and the service shows a certificate."""

# In what these name, a comma is no separator, or is gRPC's own.
_NO_LIST = ("ipv4:", "ipv6:", "unix:", "unix-abstract:", "vsock:", "xds:")
_LOCAL_SCHEMES = ("unix:", "unix-abstract:", "vsock:")
_ADDRESS_SCHEME = re.compile(r"dns:(?://[^/]*/)?|ipv4:|ipv6:|grpcs://")


def each_of(target: str) -> list[str]:
    """Return the targets that a list names, of which one is to be dialled at a time: one service has the store.

    >>> each_of("grpcs://host-a:50051,grpcs://host-b:50051"), each_of("ipv4:192.0.2.1:50051,192.0.2.2:50051")
    (['grpcs://host-a:50051', 'grpcs://host-b:50051'], ['ipv4:192.0.2.1:50051,192.0.2.2:50051'])
    """
    return [target] if target.startswith(_NO_LIST) else target.split(",")


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
