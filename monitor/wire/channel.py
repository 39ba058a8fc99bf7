"""Channels to a service: the one place that makes them, and says why one does not connect.

gRPC takes the proxy of the environment for every target, this machine included. What is on this machine is dialled
directly here; elsewhere a failure names the proxy that stood between.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from ipaddress import ip_address, ip_network
from typing import Any

import grpc

from monitor.proxies import named
from monitor.terminal import printable
from monitor.wire.addresses import ENCRYPTED, hosts, is_encrypted, is_local
from monitor.wire.credentials import CA, TOKEN, TOKEN_FILE, client_certificate, root_certificates

Option = tuple[str, int]

# The variables in which gRPC looks for a proxy; the first that is set decides, even if it is empty.
_PROXY_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")
_EXCEPTION_VARIABLES = ("no_grpc_proxy", "no_proxy")
# In what gRPC says where it meets an HTTP/1 server.
_NO_GRPC = re.compile(r"http1\.x server|Failed parsing HTTP/2")
# What gRPC says itself of a connection that broke before the first message was written.
_BROKE = "Internal error from Core"
_NO_TRUST = re.compile(r"CERTIFICATE_VERIFY_FAILED")
_HOW_TO_BE_LET_IN = (
    f"Write a token that it takes into the file that {TOKEN_FILE} names, which is read anew at each try, or set {TOKEN}"
)

STANDS_BY = "this service stands by"
"""What a service begins its answer with that takes nothing while another one has the store."""

OTHER_PROTOCOL = "the sender speaks protocol version"
"""What a service begins its answer with that speaks another version of the protocol than the sender."""

ANSWERED = (("sparsity-monitor-answered", "1"),)
"""What comes with a service's own word that it takes nothing: gRPC uses the same status where a connection breaks."""

NO_ACCESS = frozenset({grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED})
"""What a service answers that wants another token, or one that may do more. It may take the next one."""


def open_channel(target: str, options: Iterable[Option] = ()) -> grpc.Channel:
    """Open a channel to the service at `target`; directly if it is on this machine.

    Raises:
        ConfigurationError: the certificates that the environment names cannot be read.
    """
    options = [*options, *_direct_if_local(target)]
    if not is_encrypted(target):
        return grpc.insecure_channel(target, options=options)
    return grpc.secure_channel(target.removeprefix(ENCRYPTED), _credentials(), options=options)


def open_aio_channel(target: str, options: Iterable[Option] = ()) -> grpc.aio.Channel:
    """Open the same for asyncio."""
    options = [*options, *_direct_if_local(target)]
    if not is_encrypted(target):
        return grpc.aio.insecure_channel(target, options=options)
    return grpc.aio.secure_channel(target.removeprefix(ENCRYPTED), _credentials(), options=options)


def _credentials() -> grpc.ChannelCredentials:
    certificate, key = client_certificate() or (None, None)
    return grpc.ssl_channel_credentials(root_certificates(), key, certificate)


def failure(target: str, error: grpc.RpcError) -> str:
    """Return what to say of a call to the service at `target` that failed; others' words act on no terminal."""
    code, details = error.code(), printable(str(error.details()))
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return (
            f"what answers at {target} is no service of sparsity-monitor: {details.rstrip('.')}. Give the address at "
            "which the service listens for gRPC, by default port 50051"
        )
    if code is grpc.StatusCode.ABORTED:
        return f"the service at {target} does not take this training now: {details}"
    if code in NO_ACCESS:
        return f"the service at {target} does not let this in: {details.rstrip('.')}. {_HOW_TO_BE_LET_IN}"
    if code is grpc.StatusCode.UNAVAILABLE and _is_answered(error):
        return f"the service at {target} takes nothing now: {details}"
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        details = "it does not answer. It may be stopped, or busy with something else"
    elif code is grpc.StatusCode.INTERNAL and details == _BROKE:
        details = "the connection broke"
    elif code is not grpc.StatusCode.UNAVAILABLE:
        return f"the service at {target} answers {code.name}: {details}"
    proxy = proxy_of(target)
    through = "" if proxy is None else f" through the proxy of {proxy}"
    hint = ""
    if is_encrypted(target) and _NO_TRUST.search(details):
        hint = f". Its certificate is not trusted here: name in {CA} the file with that of whoever signed it"
    elif _NO_GRPC.search(details):
        hint = ". What listens there speaks HTTP and no gRPC: give the service's gRPC address, by default port 50051"
    return f"cannot reach the service at {target}{through}: {details}{hint}"


def _is_answered(error: grpc.RpcError) -> bool:
    # Earlier services say so only where they stand by.
    # Of pairs, also with asyncio.
    metadata: Any = error.trailing_metadata() or ()
    return str(error.details()).startswith(STANDS_BY) or any(key == ANSWERED[0][0] for key, _value in metadata)


def proxy_of(target: str) -> str | None:
    """Return the variable that makes gRPC dial `target` through a proxy, and its value without credentials."""
    variable = next((name for name in _PROXY_VARIABLES if name in os.environ), None)
    # gRPC ignores proxies of other kinds.
    if variable is None or not os.environ[variable].startswith("http://"):
        return None
    if is_local(target) or _is_excepted(hosts(target)[0]):
        return None
    return named(variable)


def _direct_if_local(target: str) -> list[Option]:
    # Looking a name up takes time, and matters only where there is a proxy.
    proxied = any(name in os.environ for name in _PROXY_VARIABLES)
    return [("grpc.enable_http_proxy", 0)] if proxied and is_local(target) else []


def _is_excepted(host: str) -> bool:
    """Return whether no_proxy excepts a host, as gRPC reads it: by the end of its name, or by a network."""
    variable = next((name for name in _EXCEPTION_VARIABLES if name in os.environ), None)
    entries = [entry.strip() for entry in os.environ[variable].split(",")] if variable else []
    return any(host.lower().endswith(entry.lower()) or _is_in_network(host, entry) for entry in entries if entry)


def _is_in_network(host: str, network: str) -> bool:
    try:
        return ip_address(host) in ip_network(network, strict=False)
    except ValueError:
        return False
