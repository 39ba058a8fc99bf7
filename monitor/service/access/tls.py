"""Certificates of the service, the same for gRPC and HTTP."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from monitor.service.access.expiry import expiry_of
from monitor.service.errors import AccessSettingsError
from monitor.service.settings import ServiceSettings


class Contents(NamedTuple):
    """What the files hold, in PEM format."""

    certificate: bytes
    key: bytes
    client_ca: bytes | None


@dataclass(frozen=True)
class Loaded:
    """Certificates that can be used.

    Attributes:
        context: what a connection by HTTP is encrypted with.
        expires_at: when the first of the service's own expires, in seconds since 1970 UTC; None where it is not known.
    """

    contents: Contents
    context: ssl.SSLContext
    expires_at: float | None

    def for_grpc(self) -> grpc.ServerCertificateConfiguration:
        """Return what a connection by gRPC is encrypted with."""
        pairs = [(self.contents.key, self.contents.certificate)]
        return grpc.ssl_server_certificate_configuration(pairs, self.contents.client_ca)


@dataclass(frozen=True)
class Certificates:
    """Files in PEM format.

    Attributes:
        certificate: of the service, with those between it and who signed it.
        client_ca: who signs certificates of clients, each of which has to show one. None asks for none.
    """

    certificate: Path
    key: Path
    client_ca: Path | None

    def for_uvicorn(self) -> dict[str, Any]:
        """Return the arguments of uvicorn's configuration."""
        given: dict[str, Any] = {"ssl_certfile": self.certificate, "ssl_keyfile": self.key}
        if self.client_ca is not None:
            given |= {"ssl_ca_certs": str(self.client_ca), "ssl_cert_reqs": ssl.CERT_REQUIRED}
        return given

    def contents(self) -> Contents:
        """Return what the files hold now.

        Raises:
            AccessSettingsError: they cannot be read.
        """
        try:
            client_ca = None if self.client_ca is None else self.client_ca.read_bytes()
            return Contents(self.certificate.read_bytes(), self.key.read_bytes(), client_ca)
        except OSError as error:
            raise _unusable(str(error.filename), error) from error

    def load(self) -> Loaded:
        """Read the files.

        Raises:
            AccessSettingsError: they cannot be used.
        """
        contents = self.contents()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        names = f"--tls-certificate {self.certificate} and --tls-key {self.key}"
        try:
            # Otherwise the library would ask for a password in the terminal.
            context.load_cert_chain(self.certificate, self.key, password=lambda: "")
            expires_at = expiry_of(contents.certificate)
            names = f"--client-ca {self.client_ca}"
            if self.client_ca is not None:
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(self.client_ca)
        except (OSError, ValueError) as error:
            raise _unusable(names, error) from error
        if self.contents() != contents:
            raise AccessSettingsError(f"{names} were replaced while they were read. Try again")
        return Loaded(contents, context, expires_at)


def certificates_of(settings: ServiceSettings) -> Certificates | None:
    """Return the certificates that the settings name, None where connections are not encrypted.

    Raises:
        AccessSettingsError: one is missing.
    """
    certificate, key, client_ca = settings.tls_certificate, settings.tls_key, settings.client_ca
    if certificate is None and key is None and client_ca is None:
        return None
    if certificate is None or key is None:
        given = "--client-ca" if certificate is key else "--tls-key" if certificate is None else "--tls-certificate"
        raise AccessSettingsError(
            f"{given} was given without what belongs to it: a service with certificates needs --tls-certificate and "
            "--tls-key, both files in PEM format"
        )
    return Certificates(certificate, key, client_ca)


def _unusable(names: str, error: OSError | ValueError) -> AccessSettingsError:
    reason = (error.strerror if isinstance(error, OSError) else None) or error
    return AccessSettingsError(
        f"{names} cannot be used: {reason}. Expected files in PEM format that this user can read, and a key that "
        "belongs to the certificate and has no password"
    )
