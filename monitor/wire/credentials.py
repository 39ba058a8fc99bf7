"""What whoever reports or reads shows to be let in: a token, a certificate. Imports no gRPC.

From the environment or from files that it names, never from an argument: arguments are shown by `ps`, in logs and in
what trainers report of their settings. Files are read anew at each connection, so that a token can be replaced.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Callable
from pathlib import Path

from monitor.environment import variable
from monitor.errors import ConfigurationError
from monitor.wire.addresses import is_encrypted, is_local

TOKEN, TOKEN_FILE = variable("token"), variable("token_file")
CA, CLIENT_CERTIFICATE, CLIENT_KEY = variable("ca"), variable("client_certificate"), variable("client_key")
INSECURE_NETWORK = variable("insecure_network")

# What an Authorization header can carry, RFC 6750.
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")


def call_metadata(target: str) -> tuple[tuple[str, str], ...]:
    """Return what goes with each call by gRPC to the service at `target`, so that it lets this side in.

    Raises:
        ConfigurationError: see `authorization`.
    """
    bearer = authorization(target, encrypted=is_encrypted(target), is_here=lambda: is_local(target))
    return () if bearer is None else (("authorization", bearer),)


def authorization(where: str, *, encrypted: bool, is_here: Callable[[], bool]) -> str | None:
    """Return the value of the Authorization header for the service at `where`; None where there is no token.

    Args:
        is_here: whether the service is on this machine.

    Raises:
        ConfigurationError: the token cannot be read, or others could read it on its way.
    """
    if (token := _token()) is None:
        return None
    if not (encrypted or is_network_trusted() or is_here()):
        raise ConfigurationError(
            f"the token for {where} would go over the network unencrypted, for everybody on the way to read. Serve "
            "with --tls-certificate and report to grpcs://HOST:PORT, or read from https://; or say with "
            f"{INSECURE_NETWORK}=true that nobody else is on this network."
        )
    return f"Bearer {token}"


def is_network_trusted() -> bool:
    """Return whether the user said that secrets may go over the network as they are."""
    return os.environ.get(INSECURE_NETWORK, "").lower() in ("1", "true", "yes", "on")


def root_certificates() -> bytes | None:
    """Return the certificates, as PEM, of who signs for services; None: those that every program trusts.

    Raises:
        ConfigurationError: they cannot be read.
    """
    return _read(CA)


def client_certificate() -> tuple[bytes, bytes] | None:
    """Return the certificate of this side and its key, as PEM; None where there is none.

    Raises:
        ConfigurationError: they cannot be read, or one of them is missing.
    """
    certificate, key = _read(CLIENT_CERTIFICATE), _read(CLIENT_KEY)
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        missing = CLIENT_CERTIFICATE if certificate is None else CLIENT_KEY
        raise ConfigurationError(
            f"{missing} is not set. The certificate that this side shows to a service needs {CLIENT_CERTIFICATE} "
            f"and {CLIENT_KEY}; set both, or neither."
        )
    return certificate, key


def https_context() -> ssl.SSLContext:
    """Return the same for HTTPS.

    Raises:
        ConfigurationError: something of it cannot be read.
    """
    try:
        context = ssl.create_default_context(cafile=os.environ.get(CA) or None)
        if client_certificate() is not None:
            context.load_cert_chain(os.environ[CLIENT_CERTIFICATE], os.environ[CLIENT_KEY])
    except OSError as error:
        raise ConfigurationError(
            f"the certificates of {CA}, {CLIENT_CERTIFICATE} and {CLIENT_KEY} cannot be used: {error}. They are files "
            "in PEM format, and the key belongs to the certificate."
        ) from None
    return context


def check_credentials(target: str) -> None:
    """Read all there is for the service at `target`, to complain before it is needed.

    Raises:
        ConfigurationError: something of it cannot be read, or others could read the token on its way.
    """
    call_metadata(target)
    root_certificates()
    client_certificate()


def _token() -> str | None:
    given, path = os.environ.get(TOKEN, "").strip(), os.environ.get(TOKEN_FILE)
    if given and path:
        raise ConfigurationError(f"{TOKEN} and {TOKEN_FILE} are both set. Leave one out: it is not clear which counts.")
    name = TOKEN_FILE if path else TOKEN
    text = (_read(TOKEN_FILE) or b"").decode("utf-8", "replace").strip() if path else given
    if not text and not path:
        return None
    # The message does not say what was given: it may be most of a secret.
    if not _TOKEN.fullmatch(text):
        what = "is empty" if not text else "holds something that is no token"
        raise ConfigurationError(
            f"what {name} gives {what}: expected the one line that `sparsity-monitor token create` printed."
        )
    return text


def _read(name: str) -> bytes | None:
    if not (path := os.environ.get(name)):
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"{name} is {path!r}, which cannot be read: {error.strerror}. Give the path of a file that this user can "
            "read, or leave the variable out."
        ) from None
