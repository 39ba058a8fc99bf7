"""Where the service is: the address that gRPC dials, checked before training starts."""

from __future__ import annotations

import os
import re
from ipaddress import IPv6Address
from urllib.parse import quote

from monitor.errors import ConfigurationError, shown
from monitor.wire.addresses import ENCRYPTED, each_of, is_encrypted
from monitor.wire.credentials import check_credentials

_EXPECTED = 'expected the gRPC address of the service as host:port, such as "localhost:50051"'
_HOST_AND_PORT = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\]|[A-Za-z0-9._-]+):(?P<port>\d{1,5})")
# Other ways to name a service that gRPC knows. Those without ports name one by other means.
_ADDRESSES = re.compile(r"(?P<scheme>dns:(?://[^/\s]*/)?|ipv4:|ipv6:|grpcs://)(?P<addresses>.*)", re.DOTALL)
_WITHOUT_PORT = re.compile(r"xds:(?://[^/\s]*/)?\S+|vsock:\d+:\d+|unix-abstract:\S+")
_SOCKET_FILE = re.compile(r"unix:(?P<slashes>//)?(?P<path>.*)", re.DOTALL)
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<rest>[^/\s]*)")
# Where the service has its HTTP, unless it was given another.
_PORT_OF_PAGES = ":8765"
# Of the operating systems' sockaddr_un; macOS has the smaller one.
_LONGEST_PATH = 103


def check_target(target: str) -> str:
    """Return `target`, if it can name a service: host:port, grpcs://host:port or a target with a scheme of gRPC's.

    With grpcs:// the connection is encrypted; without, a token goes to this machine alone. Of services that take over
    from each other, all are named, between commas.

    >>> check_target("monitor.example:50051")
    'monitor.example:50051'
    >>> check_target("dns:///monitor.example:50051")
    'dns:///monitor.example:50051'
    >>> check_target("host-a:50051,host-b:50051")
    'host-a:50051,host-b:50051'

    Raises:
        ConfigurationError: it cannot, or what the environment says to be let in with cannot be used there.
    """
    targets = [_checked_of(each, target) for each in _split(target)]
    for each in targets:
        check_credentials(each)
    return ",".join(targets)


def _checked_of(each: str, target: str) -> str:
    try:
        return _checked(each)
    except ConfigurationError as error:
        if each == target:
            raise
        raise ConfigurationError(f"target is {shown(target)}. One of these is wrong: {error}") from None


def _split(target: str) -> list[str]:
    if not isinstance(target, str):
        raise ConfigurationError(f"target is {shown(target)}; {_EXPECTED}, in quotes.")
    targets = each_of(target)
    if len(targets) > 1 and not all(targets):
        raise ConfigurationError(f"target is {shown(target)}. An address is missing beside a comma.")
    if len({is_encrypted(each) for each in targets}) > 1:
        raise ConfigurationError(
            f"target is {shown(target)}. Some connections would be encrypted and others not: write {ENCRYPTED} before "
            "each address, or before none."
        )
    return targets


def _checked(target: str) -> str:
    if _WITHOUT_PORT.fullmatch(target):
        return target
    if socket_file := _SOCKET_FILE.fullmatch(target):
        return _checked_socket_file(target, socket_file)
    with_scheme = _ADDRESSES.fullmatch(target)
    addresses = with_scheme["addresses"] if with_scheme else target
    several = addresses.split(",") if target.startswith(("ipv4:", "ipv6:")) else [addresses]
    for address in several:
        match = _HOST_AND_PORT.fullmatch(address)
        if match is None or not 0 < int(match["port"]) < 65536:
            raise ConfigurationError(f"target is {shown(target)}; {_EXPECTED}. {_what_is_wrong(address)}")
    return target


def _what_is_wrong(address: str) -> str:
    if not address.strip():
        return "It is empty: give target=None to record only."
    host, _, port = address.rpartition(":")
    if address.split() != [address]:
        hint = "Take the spaces out."
    elif url := _URL.match(address):
        host_and_port = url["rest"].rpartition("@")[2].removesuffix(_PORT_OF_PAGES)
        hint = f"Leave {url['scheme']}:// away, as in {_with_port(host_and_port)!r}."
        hint += f" {_PORT_OF_PAGES[1:]} is where it serves its pages." * url["rest"].endswith(_PORT_OF_PAGES)
        if url["scheme"].endswith("s"):
            hint += f" An encrypted connection is asked for as in {ENCRYPTED + _with_port(host_and_port)!r}."
    elif "/" in address:
        hint = f"Leave the path away, as in {_with_port(address.partition('/')[0])!r}."
    elif _is_ipv6(address) or _is_ipv6(host):
        # Where both are addresses, a port is the likelier end.
        meant = f"[{host}]:{port}" if _is_ipv6(host) else f"[{address}]:50051"
        hint = f"Put an IPv6 address in brackets, as in {meant!r}."
    elif port.isdecimal() and not host and ":" in address:
        hint = f"Say the host, as in 'localhost:{port}'."
    elif port.isdecimal() and host:
        hint = "A port is from 1 to 65535, and a host has letters, digits, dots and hyphens."
    else:
        hint = f"Say the port, as in {_with_port(address)!r}; the service's is 50051 unless it was given another."
    return hint


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True


def _with_port(host: str) -> str:
    """Return host:port, with the service's default port where there is none."""
    host = host.rstrip(":") or "localhost"
    return host if re.search(r":\d+$", host) and not host.endswith("]") else f"{host}:50051"


def _checked_socket_file(target: str, match: re.Match[str]) -> str:
    path = match["path"]
    if not path:
        raise ConfigurationError(f'target is {target!r}. Say the path of the socket, as in "unix:/run/monitor.sock".')
    if match["slashes"] and not path.startswith("/"):
        raise ConfigurationError(
            f'target is {target!r}; after unix:// comes an absolute path, such as "unix:///run/monitor.sock". '
            'Write "unix:PATH" for a relative one.'
        )
    # The uploader may start in another working directory.
    path = os.path.abspath(path)
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise ConfigurationError(
            f"target is {target!r}; the path of a socket has at most {_LONGEST_PATH} bytes, and this one has "
            f"{len(os.fsencode(path))}. Listen at a shorter one."
        )
    # gRPC reads a target as a URI; "%" stays, for whoever has escaped the path already.
    return f"unix:{quote(os.fsencode(path), safe='/%:@!$&+;=~')}"
