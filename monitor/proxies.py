"""Proxies of the environment: which hosts must not be dialled through one, and how one is named in a message."""

from __future__ import annotations

import os
import re
import socket
from ipaddress import ip_address


def is_loopback(host: str) -> bool:
    """Return whether a host, by name or address, is this machine as it reaches itself.

    >>> is_loopback("localhost"), is_loopback("127.0.1.1"), is_loopback("::1"), is_loopback("192.0.2.1")
    (True, True, True, False)
    """
    if (name := host.lower().rstrip(".")) == "localhost" or name.endswith(".localhost"):
        return True
    try:
        found = {str(address[0]) for *_, address in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        return False
    return all(map(_is_own_address, found))


def _is_own_address(text: str) -> bool:
    address = ip_address(text)
    address = getattr(address, "ipv4_mapped", None) or address
    # Dialling the address of all interfaces reaches this machine, too.
    return address.is_loopback or address.is_unspecified


def named(variable: str) -> str:
    """Return a variable and the proxy that it names, without credentials."""
    return f"{variable}={re.sub('//.*@', '//***@', os.environ[variable])}"
