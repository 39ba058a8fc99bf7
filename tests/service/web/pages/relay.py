"""One address for a service that is started anew on another port: what a browser sees of a restart."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from collections.abc import Iterator


class Relay:
    """Hands connections on.

    Attributes:
        address: where it listens.
        target: HOST:PORT where connections go; they are refused while it is empty.
    """

    def __init__(self) -> None:
        self.target = ""
        relay = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                relay._hand_on(self.request)

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = "{}:{}".format(*self._server.server_address)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def _hand_on(self, client: socket.socket) -> None:
        host, _, port = self.target.rpartition(":")
        # The target may just have gone.
        with contextlib.suppress(OSError), socket.create_connection((host, int(port or 0))) as service:
            there = threading.Thread(target=_copy, args=(client, service), daemon=True)
            there.start()
            _copy(service, client)
            there.join()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for each in (source, sink):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def relay() -> Iterator[Relay]:
    """Run a relay for as long as the context is open."""
    one = Relay()
    try:
        yield one
    finally:
        one.close()
