"""What happens to a service: killed, stopped, besieged, its clock, and who may report to it."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from monitor.report.spool.attempt import UNREACHABLE
from monitor.service.access.scopes import Scope
from monitor.service.care.tokens import create, revoke
from monitor.wire.credentials import TOKEN_FILE
from tests.faults.mutated import send_described, send_mutated
from tests.faults.training import Outcome, Training
from tests.service.running import Client, ServiceProcess, service_in_thread

SILENT_CONNECTIONS = 1000
LOST_SOON = ("--lost-after-seconds", "2")
"""Sooner than the next heartbeat comes: between two of them, a run without observations seems lost for a moment."""


@contextmanager
def running(store: Path | str, *options: str, **popen: Any) -> Iterator[ServiceProcess]:
    """A service in a process of its own."""
    service = ServiceProcess(store, *options, **popen)
    try:
        yield service
    finally:
        service.close()


def killed_services(directory: Path, times: int) -> Outcome:
    """The service is killed while it takes observations, and started again on its store."""
    store = directory / "store.db"
    with ExitStack() as stack:
        service = stack.enter_context(running(store))
        address = service.client.listening.grpc_address
        training = Training(directory, address)
        for _ in range(times):
            training.wait_until_some_arrived(service.client)
            training.train()
            service.signal(signal.SIGKILL)
            training.wait_until_known(UNREACHABLE)
            with training.broken():
                # Once a minute, so perhaps before.
                training.wait_until_told(UNREACHABLE)
            service = stack.enter_context(running(store, "--grpc-address", address))
            training.wait_until_shown(service.client, "running")
        training.end()
        return training.assert_whole(service.client)


def stopped_service(directory: Path, times: int, seconds: float = 0) -> Outcome:
    """The service is stopped by SIGSTOP, as a machine that sleeps, and goes on; for as long as is told, if often.

    Args:
        seconds: how long at least.
    """
    with running(directory / "store.db") as service:
        training = Training(directory, service.client.listening.grpc_address)
        for number in range(times):
            training.wait_until_some_arrived(service.client)
            service.process.send_signal(signal.SIGSTOP)
            with training.broken():
                training.go_on(seconds)
                training.wait_until_committed()
                if number == 1 or seconds:
                    training.wait_until_told(UNREACHABLE)
            service.process.send_signal(signal.SIGCONT)
            training.wait_until_shown(service.client, "running")
        training.end()
        return training.assert_whole(service.client)


def silent_connections(directory: Path, times: int) -> Outcome:
    """Others connect to both ports of the service and say nothing."""
    with running(directory / "store.db") as service:
        training = Training(directory, service.client.listening.grpc_address)
        for _ in range(times):
            training.wait_until_some_arrived(service.client)
            with ExitStack() as stack, training.broken():
                for number in range(SILENT_CONNECTIONS):
                    listening = service.client.listening
                    address = listening.http_address if number % 2 else listening.grpc_address
                    host, _, port = address.rpartition(":")
                    stack.enter_context(socket.create_connection((host, int(port)), timeout=60))
                training.wait_until_some_arrived(service.client)
                training.wait_until_shown(service.client, "running")
                assert service.client.http.get("/readyz").status_code == 200
        training.end()
        return training.assert_whole(service.client)


def mutated_messages(directory: Path, times: int) -> Outcome:
    """Others send to both ports what is nearly a message, or a request."""
    return many_messages(directory, 120 * times)


def many_messages(directory: Path, messages: int) -> Outcome:
    """Others send so many of these; where there are many, also what schemathesis makes of the interface."""
    # Not in a process of its own, which would stop as soon as nobody reads what it logs of them.
    with service_in_thread(directory / "store.db") as client:
        training = Training(directory, client.listening.grpc_address)
        training.wait_until_some_arrived(client)
        number = 0
        while messages > 0:
            messages -= send_mutated(client, min(500, messages // 3 + 1), number)
            if messages > 0:
                messages -= send_described(client, 10, number)
            with training.broken():
                training.wait_until_some_arrived(client)
            number += 1
        training.end()
        return training.assert_whole(client)


def refused_tokens(directory: Path, times: int) -> Outcome:
    """The token is revoked while the run reports, and a new one is written to its file."""
    store, file = directory / "store.db", directory / "token"
    url = f"sqlite:///{store}"
    reading, _ = create(url, "reading", [Scope.READ], None)
    with mock.patch.dict(os.environ, {TOKEN_FILE: str(file)}), running(store, *LOST_SOON) as service:
        client = _Reader(service.client, reading)
        file.write_text(create(url, "token-0", [Scope.WRITE], None)[0])
        training = Training(directory, client.listening.grpc_address)
        for number in range(times):
            training.wait_until_some_arrived(client)
            revoke(url, f"token-{number}")
            with training.broken():
                training.wait_until_known(f"the token 'token-{number}' was revoked at")
                training.wait_until_told(f"Write a token that it takes into the file that {TOKEN_FILE} names")
                training.wait_until_shown(client, "lost")
            file.write_text(create(url, f"token-{number + 1}", [Scope.WRITE], None)[0])
        training.wait_until_some_arrived(client)
        training.end()
        outcome = training.assert_whole(client)
        assert "was revoked at" in service.close()
        return outcome


class _Reader(Client):
    """Reads with a token."""

    def __init__(self, anybody: Client, token: str) -> None:
        self.listening, self.channel, self.http = anybody.listening, anybody.channel, anybody.http
        self.http.headers["Authorization"] = f"Bearer {token}"
        self.stub: Any = _StubWithToken(anybody.stub, token)


class _StubWithToken:
    def __init__(self, stub: Any, token: str) -> None:
        self._stub, self._metadata = stub, [("authorization", f"Bearer {token}")]

    def __getattr__(self, name: str) -> Any:
        return partial(getattr(self._stub, name), metadata=self._metadata)
