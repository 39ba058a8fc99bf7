"""Where a service may listen: on this machine, or elsewhere with something that keeps strangers out."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address

from monitor.service.errors import AccessSettingsError
from monitor.service.settings import ServiceSettings, split_address


def check_network(settings: ServiceSettings, *, closed: bool) -> None:
    """Accept the addresses of a service.

    Args:
        closed: whether it asks for a token, or for a certificate of the client.

    Raises:
        AccessSettingsError: whoever reaches one of them could write and read.
    """
    if closed or settings.insecure_network:
        return
    for option, address in (("--grpc-address", settings.grpc_address), ("--http-address", settings.http_address)):
        if reaches_others(split_address(address)[0]):
            raise AccessSettingsError(
                f"{option} {address} can be reached from other machines, and no token is asked for: make one with "
                "`sparsity-monitor token create`, or allow everybody on this network to write and read with "
                "--insecure-network"
            )


def reaches_others(host: str) -> bool:
    """Return whether a service that listens on a host can be reached from other machines.

    >>> reaches_others("127.0.0.1"), reaches_others("::1"), reaches_others("0.0.0.0"), reaches_others("0")
    (False, False, True, True)
    """
    try:
        found = {str(address[0]) for *_, address in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        # It cannot be bound either, which is said then.
        return False
    return not all(_is_loopback(ip_address(address)) for address in found)


def _is_loopback(address: IPv4Address | IPv6Address) -> bool:
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback
