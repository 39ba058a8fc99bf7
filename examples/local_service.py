"""A sparsity-monitor service for as long as a `with` block lasts, on this machine only."""

import http.client
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

HOST = "127.0.0.1"
READY_SECONDS = 60
STOP_SECONDS = 15


@dataclass(frozen=True)
class Service:
    """A service process, and where it can be reached: host:port."""

    grpc_address: str
    http_address: str
    log: Path
    process: subprocess.Popen[bytes]

    def wait(self) -> NoReturn:
        """Wait until the service ends, which it should not do by itself.

        Raises:
            RuntimeError: it has ended.
        """
        status = self.process.wait()
        raise RuntimeError(f"the service has ended by itself, with status {status}; see {self.log}")


@contextmanager
def local_service(directory: Path, grpc_port: int = 50051, http_port: int = 8765) -> Iterator[Service]:
    """Start a service that keeps its store and its log in a directory; stop it at the end, whatever the end is.

    A port that is taken is replaced by a free one.

    Raises:
        RuntimeError: the service did not become ready; the message says where its log is.
    """
    grpc_address, http_address = f"{HOST}:{_free_port(grpc_port)}", f"{HOST}:{_free_port(http_port)}"
    command = [
        str(Path(sys.executable).with_name("sparsity-monitor")),
        "serve",
        f"--grpc-address={grpc_address}",
        f"--http-address={http_address}",
        f"--store-url=sqlite:///{directory.resolve() / 'sparsity-monitor.db'}",
    ]
    log = directory / "service.log"
    with log.open("w") as output:
        # In a session of its own: Ctrl-C in a terminal then reaches only this process, which ends the service.
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        service = Service(grpc_address, http_address, log, process)
        _wait_until_ready(service)
        yield service
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port(preferred: int) -> int:
    for port in (preferred, 0):
        with socket.socket() as probe:
            # As servers do: a port whose last connections are still fading away is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise RuntimeError(f"no free port on {HOST}")


def _wait_until_ready(service: Service) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not _is_ready(service):
        if service.process.poll() is not None:
            service.wait()
        if time.monotonic() > deadline:
            raise RuntimeError(f"the service was not ready after {READY_SECONDS} seconds; see {service.log}")
        time.sleep(0.1)


def _is_ready(service: Service) -> bool:
    # Not urllib, which would ask a proxy.
    connection = http.client.HTTPConnection(service.http_address, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
