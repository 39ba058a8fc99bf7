"""A sparsity-monitor service for as long as this process lasts, on this machine only."""

import atexit
import http.client
import os
import socket
import subprocess
import sys
import time
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

HOST = "127.0.0.1"
READY_SECONDS = 60
STOP_SECONDS = 15


class ServiceError(Exception):
    """The service did not start, or ended by itself."""


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
            ServiceError: it has ended.
        """
        status = self.process.wait()
        raise ServiceError(f"the service has ended by itself, with status {status}; see {self.log}")


def start_local_service(directory: Path, grpc_port: int = 50051, http_port: int = 8765) -> Service:
    """Start a service that keeps its store and its log in a directory, and ends when this process does.

    A port that is taken is replaced by a free one.

    Raises:
        ServiceError: the service did not become ready; the message says where its log is.
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
    # What is registered first is called last: a training that is interrupted can still report it to the service.
    atexit.register(_stop, process)
    service = Service(grpc_address, http_address, log, process)
    _wait_until_ready(service)
    return service


def show_in_browser(address: str) -> None:
    """Open a page for whoever sits in front of a screen; a browser in the terminal itself would be in the way."""
    if sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        webbrowser.open(address)


def _stop(process: subprocess.Popen[bytes]) -> None:
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
    raise ServiceError(f"no free port on {HOST}")


def _wait_until_ready(service: Service) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not _is_ready(service):
        if service.process.poll() is not None:
            service.wait()
        if time.monotonic() > deadline:
            raise ServiceError(f"the service was not ready after {READY_SECONDS} seconds; see {service.log}")
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
