"""Certificates of the service, the same for gRPC and HTTP."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from monitor.service.errors import AccessSettingsError
from monitor.service.settings import ServiceSettings


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

    def for_grpc(self) -> grpc.ServerCredentials:
        """Return what a gRPC server listens with."""
        roots = None if self.client_ca is None else self.client_ca.read_bytes()
        pairs = [(self.key.read_bytes(), self.certificate.read_bytes())]
        return grpc.ssl_server_credentials(pairs, roots, require_client_auth=roots is not None)

    def for_uvicorn(self) -> dict[str, Any]:
        """Return the arguments of uvicorn's configuration."""
        given: dict[str, Any] = {"ssl_certfile": self.certificate, "ssl_keyfile": self.key}
        if self.client_ca is not None:
            given |= {"ssl_ca_certs": str(self.client_ca), "ssl_cert_reqs": ssl.CERT_REQUIRED}
        return given


def certificates_of(settings: ServiceSettings) -> Certificates | None:
    """Return the certificates that the settings name, None where connections are not encrypted.

    Raises:
        AccessSettingsError: they cannot be used.
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
    _check(certificate, key, client_ca)
    return Certificates(certificate, key, client_ca)


def _check(certificate: Path, key: Path, client_ca: Path | None) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    names = f"--tls-certificate {certificate} and --tls-key {key}"
    try:
        # Otherwise the library would ask for a password in the terminal.
        context.load_cert_chain(certificate, key, password=lambda: "")
        names = f"--client-ca {client_ca}"
        if client_ca is not None:
            context.load_verify_locations(client_ca)
    except OSError as error:
        raise AccessSettingsError(
            f"{names} cannot be used: {error.strerror or error}. Expected files in PEM format that this user can read, "
            "and a key that belongs to the certificate and has no password"
        ) from error
