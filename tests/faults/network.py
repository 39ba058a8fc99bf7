"""What happens to the network between an uploader and its service."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from monitor.report.spool.attempt import UNREACHABLE
from tests.faults.link import Fault, link_to
from tests.faults.namespace import Wire, wire
from tests.faults.services import LOST_SOON, running
from tests.faults.training import Outcome, Training
from tests.service.running import ServiceProcess


def broken_connections(directory: Path, times: int) -> Outcome:
    """Connections are reset, slow, break now and then, or lead to something else that answers, or does not."""
    with running(directory / "store.db", *LOST_SOON) as service, link_to(service.client.listening.grpc_address) as link:
        training = Training(directory, link.address)
        # That a service does not answer is known after a while.
        for fault in (Fault.SILENT, *(Fault.CUT, Fault.SLOW, Fault.GARBAGE, Fault.BREAKING) * times):
            training.wait_until_some_arrived(service.client)
            link.do(fault)
            with training.broken():
                if fault in (Fault.SLOW, Fault.BREAKING):
                    training.wait_until_some_arrived(service.client)
                else:
                    training.train()
                    training.wait_until_known("it does not answer" if fault is Fault.SILENT else UNREACHABLE)
                training.wait_until_told(UNREACHABLE)
                if fault is Fault.CUT:
                    training.wait_until_shown(service.client, "lost")
            link.do(Fault.NONE)
        training.end()
        return training.assert_whole(service.client)


def lost_packets(directory: Path, times: int) -> Outcome:
    """The network to another namespace takes 300 kbit/s and loses packets; then it is cut, once until that is told."""
    with wire() as way, _service_behind(way, directory) as service:
        training = Training(directory, service.client.listening.grpc_address)
        for number in range(times):
            training.wait_until_some_arrived(service.client)
            with training.broken(), way.slow(rate="300kbit", queue="3kb"):
                while not way.lost():
                    training.train(40)
                    training.wait_until_some_arrived(service.client)
            training.wait_until_some_arrived(service.client)
            with training.broken(), way.cut():
                training.wait_until_committed()
                if number == 1:
                    training.wait_until_told(UNREACHABLE)
        training.end()
        return training.assert_whole(service.client)


def random_loss(directory: Path, times: int) -> Outcome:
    """One packet in ten is lost at random, there and back."""
    with wire() as way, _service_behind(way, directory) as service:
        training = Training(directory, service.client.listening.grpc_address)
        for _ in range(times):
            training.wait_until_some_arrived(service.client)
            with training.broken(), way.lossy(percent=10):
                while not all(way.lost_at_random()):
                    training.wait_until_some_arrived(service.client)
        training.end()
        return training.assert_whole(service.client)


@contextmanager
def _service_behind(way: Wire, directory: Path) -> Iterator[ServiceProcess]:
    addresses = ("--grpc-address", f"{way.address}:0", "--http-address", f"{way.address}:0", "--insecure-network")
    with (
        # For gRPC the service is on another machine.
        mock.patch.dict(os.environ, {"grpc_proxy": ""}),
        running(directory / "store.db", *addresses, preexec_fn=way.enter) as service,
    ):
        yield service
