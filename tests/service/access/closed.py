"""A service that asks for tokens, and the certificates of a company that signs its own."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import create_engine

from monitor.service.access import table
from monitor.service.access.by_hand import create, revoke
from monitor.service.access.scopes import Scope
from monitor.service.access.tokens import Token, digest_of, new_secret
from monitor.wire.channel import open_channel
from monitor.wire.monitor_pb2 import ListRunsRequest
from monitor.wire.monitor_pb2_grpc import MonitorServiceStub
from tests.service.running import Client, service_in_thread

EXPIRED, REVOKED, UNKNOWN = "expired", "revoked", "unknown"


class Closed(NamedTuple):
    """A running service that asks for tokens.

    Attributes:
        tokens: by scope, and those that are no good.
    """

    client: Client
    store_url: str
    tokens: dict[str, str]

    def header(self, name: str | None) -> dict[str, str]:
        return {} if name is None else {"Authorization": f"Bearer {self.tokens[name]}"}

    def metadata(self, name: str | None) -> list[tuple[str, str]]:
        return [(key.lower(), value) for key, value in self.header(name).items()]


@contextmanager
def closed_service(directory: Path, **settings: Any) -> Iterator[Closed]:
    store = directory / "store.db"
    url = f"sqlite:///{store}"
    tokens = {scope.value: create(url, scope, [scope], "1d")[0] for scope in Scope}
    tokens[REVOKED] = create(url, REVOKED, list(Scope), None)[0]
    revoke(url, REVOKED)
    tokens[EXPIRED], tokens[UNKNOWN] = new_secret(), new_secret()
    engine = create_engine(url)
    with engine.begin() as connection:
        now = time.time()
        table.add(connection, Token(EXPIRED, frozenset(Scope), digest_of(tokens[EXPIRED]), now - 10, now - 5))
    engine.dispose()
    with service_in_thread(store, **settings) as client:
        yield Closed(client, url, tokens)


def list_runs(target: str, metadata: Any = ()) -> None:
    """Ask a service for its runs; raises grpc.RpcError."""
    with open_channel(target) as channel:
        MonitorServiceStub(channel).ListRuns(ListRunsRequest(), timeout=60, metadata=metadata)


class Certificates(NamedTuple):
    """Files in PEM format: who signs, and what it signed."""

    ca: Path
    certificate: Path
    key: Path
    client_certificate: Path
    client_key: Path


def make_certificates(directory: Path) -> Certificates:
    """Make them with openssl, for this machine."""
    ca, ca_key = directory / "ca.pem", directory / "ca.key"
    new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc"]
    _openssl(*new, "-days", "2", "-subj", "/CN=a company", "-keyout", ca_key, "-out", ca)
    signed = {}
    for name in ("service", "client"):
        certificate, key = directory / f"{name}.pem", directory / f"{name}.key"
        names = ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost", "-addext", "basicConstraints=CA:FALSE"]
        signer = ["-CA", ca, "-CAkey", ca_key]
        _openssl(*new, "-days", "2", "-subj", f"/CN={name}", *names, *signer, "-keyout", key, "-out", certificate)
        signed[name] = (certificate, key)
    return Certificates(ca, *signed["service"], *signed["client"])


def _openssl(*command: str | Path) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=60)
