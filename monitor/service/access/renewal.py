"""Certificates that cert-manager, certbot or a person replace while the service runs: new connections get new ones."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import grpc

from monitor.service.access.tls import Certificates, Loaded
from monitor.service.background import in_background
from monitor.service.errors import AccessSettingsError
from monitor.service.times import when

logger = logging.getLogger("monitor.service.access")

# How long a new certificate may lie there unused.
_LOOK_SECONDS = 10.0
_DAY_SECONDS = 86400.0
# Renewing programs begin a month before the end: what is left at this point was not renewed.
_EARLY_SECONDS = 14 * _DAY_SECONDS


class ServedCertificates:
    """What new connections are encrypted with: what the files hold, or held last while it could be used.

    Args:
        tell_expiry: takes when they expire, in seconds since 1970 UTC, each time that it is another time.

    Raises:
        AccessSettingsError: the files cannot be used.
    """

    def __init__(self, files: Certificates, tell_expiry: Callable[[float], object]) -> None:
        self.files = files
        self._tell_expiry = tell_expiry
        self._failed_looks = 0
        self._next_warning = 0.0
        self._served = files.load()
        self._tell()

    def for_grpc(self) -> grpc.ServerCredentials:
        """Return what a gRPC server listens with; keep it for as long as the server listens."""
        asks_clients = self.files.client_ca is not None
        return grpc.dynamic_ssl_server_credentials(self._current_for_grpc(), self._current_for_grpc, asks_clients)

    def _current_for_grpc(self) -> grpc.ServerCertificateConfiguration:
        return self._served.for_grpc()

    def serve_with(self, context: ssl.SSLContext) -> None:
        """Encrypt new connections that a server accepts with `context` with what is served now."""

        def choose(connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _context: ssl.SSLContext) -> None:
            connection.context = self._served.context

        # Called in each handshake, whether or not it names a host. Loading another pair into a context that is in use
        # would leave it without one where the two do not fit.
        context.sni_callback = choose

    def watching(self, count_failure: Callable[[], object]) -> AbstractAsyncContextManager[None]:
        """Follow what becomes of the files while the context is open."""
        return in_background(
            self._watch,
            "looking for a new certificate",
            meanwhile="the one that was read last stays in use until it expires, and then nobody connects",
            count_failure=count_failure,
        )

    async def _watch(self) -> None:
        while True:
            await asyncio.to_thread(self.look)
            await asyncio.sleep(_LOOK_SECONDS)

    def look(self) -> None:
        """Take what the files hold, if it is new and can be used."""
        try:
            if self.files.contents() != self._served.contents:
                self._served = self.files.load()
                self._tell()
                logger.info("new certificate in %s: it %s", self.files.certificate, _expires(self._served))
            self._failed_looks = 0
        except AccessSettingsError as error:
            self._failed_looks += 1
            # Not at the first: certificate and key are replaced one after the other.
            if self._failed_looks == 2:
                logger.warning(
                    "the certificate that was read last stays in use, and %s: %s", _expires(self._served), error
                )
        self._warn_early()

    def _tell(self) -> None:
        self._next_warning = 0.0
        if self._served.expires_at is not None:
            self._tell_expiry(self._served.expires_at)

    def _warn_early(self) -> None:
        at = self._served.expires_at
        if at is None or at - time.time() > _EARLY_SECONDS or time.monotonic() < self._next_warning:
            return
        self._next_warning = time.monotonic() + _DAY_SECONDS
        logger.warning(
            "the certificate in %s %s, and from then on nobody connects. Replace it and its key: both are read anew "
            "while the service runs",
            self.files.certificate,
            _expires(self._served),
        )


def _expires(loaded: Loaded) -> str:
    return f"expires at {when(loaded.expires_at)}" if loaded.expires_at is not None else "does not say when it expires"
