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
from monitor.service.access.scopes import Scope
from monitor.service.access.tokens import Token, digest_of, new_secret
from monitor.service.care.tokens import create, revoke
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
    """Make them with openssl, for this machine, valid for two days."""
    directory.mkdir(exist_ok=True)
    ca = directory / "ca.pem"
    _new(2, "a company", ca)
    service, client = (sign(ca, directory / f"{name}.pem") for name in ("service", "client"))
    return Certificates(ca, service, service.with_suffix(".key"), client, client.with_suffix(".key"))


def sign(ca: Path, certificate: Path, days: int = 2) -> Path:
    """Make a certificate that `ca` signs, and its key beside it, and return it."""
    names = ("-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost", "-addext", "basicConstraints=CA:FALSE")
    _new(days, certificate.stem, certificate, *names, "-CA", ca, "-CAkey", ca.with_suffix(".key"))
    return certificate


def _new(days: int, name: str, certificate: Path, *options: str | Path) -> None:
    kind = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc", "-days", str(days))
    files = ("-keyout", certificate.with_suffix(".key"), "-out", certificate)
    command = ("openssl", *kind, "-subj", f"/CN={name}", *options, *files)
    subprocess.run(command, check=True, capture_output=True, timeout=60)
