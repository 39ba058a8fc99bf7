"""What is broken, one function each: given a directory and how often.

Each returns when every observation has arrived once, with its counts, and raises where one did not.
"""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

from monitor.report.spool import UNREACHABLE
from monitor.wire import monitor_pb2 as pb
from tests.eventually import eventually
from tests.faults.link import Fault, link_to
from tests.faults.mutated import send_mutated
from tests.faults.training import ARRIVAL_SECONDS, Outcome, Training
from tests.mounts import empty, fill, small_disk
from tests.processes import Processes
from tests.report.attempts import Trainings, kill_uploader, spooled, steps
from tests.service.running import ServiceProcess, service_in_thread

SILENT_CONNECTIONS = 1000

Broken = Callable[[Path, int], Outcome]


@contextmanager
def _service(directory: Path, *options: str) -> Iterator[ServiceProcess]:
    service = ServiceProcess(directory / "store.db", *options)
    try:
        yield service
    finally:
        service.close()


def killed_services(directory: Path, times: int) -> Outcome:
    """The service is killed while it takes observations, and started again on its store."""
    with ExitStack() as stack:
        service = stack.enter_context(_service(directory))
        address = service.client.listening.grpc_address
        training = Training(directory, address)
        for _ in range(times):
            training.wait_until_some_arrived(service.client)
            training.train()
            service.signal(signal.SIGKILL)
            training.wait_until_known(UNREACHABLE)
            # Once a minute, so perhaps before.
            training.wait_until_told(UNREACHABLE)
            service = stack.enter_context(_service(directory, "--grpc-address", address))
        training.end()
        return training.assert_whole(service.client)


def killed_uploaders(directory: Path, times: int) -> Outcome:
    """The uploader is killed while it delivers."""
    with _service(directory) as service, mock.patch("monitor.report.uploader_process._FIRST_RESTART_SECONDS", 0.001):
        training = Training(directory, service.client.listening.grpc_address)
        for _ in range(times):
            training.train()
            killed = kill_uploader(training.reporter)

            def is_started_again(killed: int = killed) -> bool:
                training.train(1)
                return training.reporter.uploader_pid != killed

            eventually(is_started_again, ARRIVAL_SECONDS)
        training.end()
        return training.assert_whole(service.client)


def stopped_service(directory: Path, times: int) -> Outcome:
    """The service is stopped by SIGSTOP, as a machine that sleeps, and goes on."""
    with _service(directory) as service:
        training = Training(directory, service.client.listening.grpc_address)
        for _ in range(times):
            training.wait_until_some_arrived(service.client)
            service.process.send_signal(signal.SIGSTOP)
            training.train(20)
            eventually(lambda: spooled(training.reporter).last_sequence == training.steps)
            service.process.send_signal(signal.SIGCONT)
        training.end()
        return training.assert_whole(service.client)


def broken_network(directory: Path, times: int) -> Outcome:
    """The network is cut, slow, breaks now and then, or leads to something else that answers, or does not."""
    with _service(directory) as service, link_to(service.client.listening.grpc_address) as link:
        training = Training(directory, link.address)
        # That a service does not answer is known after a while.
        for fault in (Fault.SILENT, *(Fault.CUT, Fault.SLOW, Fault.GARBAGE, Fault.BREAKING) * times):
            training.wait_until_some_arrived(service.client)
            link.do(fault)
            if fault in (Fault.SLOW, Fault.BREAKING):
                training.wait_until_some_arrived(service.client)
            else:
                training.train()
                training.wait_until_known("it does not answer" if fault is Fault.SILENT else UNREACHABLE)
            training.wait_until_told(UNREACHABLE)
            link.do(Fault.NONE)
        training.end()
        return training.assert_whole(service.client)


def full_disk(directory: Path, times: int) -> Outcome:
    """The disk of the spool is full, and has room again."""
    with _service(directory) as service, small_disk(directory / "disk") as disk:
        training = Training(disk, service.client.listening.grpc_address)
        for _ in range(times):
            training.wait_until_some_arrived(service.client)
            fill(disk)
            training.wait_until_told("disk is full")
            empty(disk)
        training.end()
        return training.assert_whole(service.client)


def clock_jumps(directory: Path, times: int) -> Outcome:
    """The clock of the training's machine jumps to and fro by a day."""
    with _service(directory) as service:
        training = Training(directory, service.client.listening.grpc_address)
        now = time.time
        for number in range(times):
            with mock.patch("time.time", lambda ahead=(-1) ** number * 86400.0: now() + ahead):
                training.wait_until_some_arrived(service.client)
        training.end()
        return training.assert_whole(service.client)


def silent_connections(directory: Path, times: int) -> Outcome:
    """Others connect to both ports of the service and say nothing."""
    with _service(directory) as service, ExitStack() as stack:
        training = Training(directory, service.client.listening.grpc_address)
        for _ in range(times):
            for number in range(SILENT_CONNECTIONS):
                listening = service.client.listening
                address = listening.http_address if number % 2 else listening.grpc_address
                host, _, port = address.rpartition(":")
                stack.enter_context(socket.create_connection((host, int(port)), timeout=60))
            training.wait_until_some_arrived(service.client)
            assert service.client.http.get("/readyz").status_code == 200
        training.end()
        return training.assert_whole(service.client)


def mutated_messages(directory: Path, times: int) -> Outcome:
    """Others send to both ports what is nearly a message, or a request."""
    # Not in a process of its own, which would stop as soon as nobody reads what it logs of them.
    with service_in_thread(directory / "store.db") as client:
        training = Training(directory, client.listening.grpc_address)
        training.wait_until_some_arrived(client)
        send_mutated(client, 40 * times)
        training.wait_until_some_arrived(client)
        training.end()
        return training.assert_whole(client)


def killed_trainings(directory: Path, times: int) -> Outcome:
    """The training is killed after it observed something; its uploader delivers that, and tells of the end."""
    with _service(directory) as service, Processes(directory, "tests.report.attempts") as processes:
        trainings = Trainings(processes)
        for number in range(times):
            run_id = f"killed {number}"
            end = "eventually(lambda: spooled(reporter).last_sequence == 3)\nos.kill(os.getpid(), signal.SIGKILL)"
            ended = trainings.run(end, run_id, directory / run_id, service.client.listening.grpc_address)
            assert ended.status == -signal.SIGKILL
        for number in range(times):
            run_id = f"killed {number}"
            eventually(lambda run_id=run_id: service.client.is_over(run_id), ARRIVAL_SECONDS)
            assert steps(service.client, run_id) == [1, 2, 3]
            assert service.client.run(run_id).state == pb.RunSummary.STATE_FAILED
    return Outcome(3 * times, 0.0)


BROKEN: dict[str, Broken] = {
    "service killed": killed_services,
    "uploader killed": killed_uploaders,
    "training killed": killed_trainings,
    "service stopped (SIGSTOP)": stopped_service,
    "network broken": broken_network,
    "disk of the spool full": full_disk,
    "clock jumps by a day": clock_jumps,
    "1,000 silent connections": silent_connections,
    "120 mutated messages": mutated_messages,
}
