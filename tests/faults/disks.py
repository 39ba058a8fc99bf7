"""What happens to the disks of a spool and of a store."""

from __future__ import annotations

import signal
from pathlib import Path

from tests.eventually import eventually
from tests.faults.services import LOST_SOON, running
from tests.faults.slow_disk import slow_disk
from tests.faults.training import ARRIVAL_SECONDS, Outcome, Training
from tests.mounts import empty, fill, small_disk
from tests.report.attempts import spooled


def full_disk_of_spool(directory: Path, times: int) -> Outcome:
    """The disk of the spool is full, and has room again."""
    with running(directory / "store.db") as service, small_disk(directory / "disk") as disk:
        training = Training(disk, service.client.listening.grpc_address)
        for _ in range(times):
            training.wait_until_some_arrived(service.client)
            fill(disk)
            with training.broken():
                training.wait_until_told("disk is full")
            empty(disk)
        training.end()
        return training.assert_whole(service.client)


def full_disk_of_store(directory: Path, times: int) -> Outcome:
    """The disk of the store is full, and has room again: nothing is acknowledged meanwhile."""
    with small_disk(directory / "disk", "16m") as disk, running(disk / "store.db", *LOST_SOON) as service:
        training = Training(directory, service.client.listening.grpc_address)
        for _ in range(times):
            training.wait_until_some_arrived(service.client)
            fill(disk)
            with training.broken():
                training.wait_until_known("full")
                training.wait_until_told("full")
                assert service.client.http.get("/readyz").status_code == 503
                assert (service.client.metric("store_errors_total") or 0) > 0
                training.wait_until_shown(service.client, "lost")
            empty(disk)
        training.end()
        return training.assert_whole(service.client)


def full_spool(directory: Path, times: int) -> Outcome:
    """The service is stopped until the spool is full: what is left out on its way arrives, the rest is counted."""
    with running(directory / "store.db") as service:
        training = Training(directory, service.client.listening.grpc_address, max_bytes=100_000)
        for _ in range(times):
            training.wait_until_some_arrived(service.client)
            service.process.send_signal(signal.SIGSTOP)
            dropped = spooled(training.reporter).dropped
            with training.broken():
                while spooled(training.reporter).dropped == dropped:
                    training.train(100)
                    training.wait_until_committed()
            service.process.send_signal(signal.SIGCONT)
            eventually(lambda: spooled(training.reporter).unsent == 0, ARRIVAL_SECONDS)
        training.wait_until_told("left out because the spool in")
        training.end()
        return training.assert_accounted(service.client)


def slow_disk_of_spool(directory: Path, times: int) -> Outcome:
    """The disk of the spool takes 20 writes a second."""
    with running(directory / "store.db") as service, slow_disk(directory / "disk") as disk:
        training = Training(disk.directory, service.client.listening.grpc_address)
        for _ in range(times):
            training.wait_until_some_arrived(service.client)
            with training.broken(), disk.slow(20):
                training.wait_until_some_arrived(service.client)
        training.end()
        return training.assert_whole(service.client)


def slow_disk_of_store(directory: Path, times: int) -> Outcome:
    """The disk of the store takes 20 writes a second."""
    with slow_disk(directory / "disk") as disk, running(disk.directory / "store.db") as service:
        training = Training(directory, service.client.listening.grpc_address)
        for _ in range(times):
            training.wait_until_some_arrived(service.client)
            with training.broken(), disk.slow(20):
                training.wait_until_some_arrived(service.client)
        training.end()
        return training.assert_whole(service.client)
