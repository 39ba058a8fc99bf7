"""The network between an uploader and a service, as a proxy that can be cut, slowed down, or answer something else."""

from __future__ import annotations

import random
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from itertools import count


class Fault(Enum):
    """What a link does to the connections through it."""

    NONE = "passes everything on"
    CUT = "resets each connection at once"
    SILENT = "takes connections and answers nothing"
    GARBAGE = "answers something that is no HTTP/2"
    SLOW = "passes a few hundred bytes on at a time, with pauses"
    BREAKING = "resets a connection after some pieces of what passes, fewer than 40"


class Link:
    """Listens, and passes on to another address what comes in, until it is told to do something else."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._to = (host, int(port))
        self._fault = Fault.NONE
        self._random = random.Random(0)
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def do(self, fault: Fault) -> None:
        """Behave like this from now on; what is open breaks."""
        with self._lock:
            self._fault = fault
            for each in self._open:
                _reset(each)
            self._open.clear()

    def close(self) -> None:
        self.do(Fault.CUT)
        # A thread that waits in `accept` is not woken by `close` alone.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with self._lock:
            fault = self._fault
            self._open.add(near)
        with suppress(OSError):
            if fault is Fault.CUT:
                _reset(near)
            elif fault is Fault.GARBAGE:
                near.sendall(b"\0\xff 220 what do you want?\r\n" * 200)
                near.close()
            elif fault is not Fault.SILENT:
                self._pass_on(near, fault)

    def _pass_on(self, near: socket.socket, fault: Fault) -> None:
        far = socket.create_connection(self._to)
        with self._lock:
            self._open.add(far)
        # Of both directions together. An acknowledgement takes about 15, so that two of three connections bring one: a
        # probability for each piece would leave ten in a row without, and the pauses between them are long by then.
        pieces = iter(range(self._random.randrange(40))) if fault is Fault.BREAKING else count()
        threading.Thread(target=self._pump, args=[far, near, fault, pieces], daemon=True).start()
        self._pump(near, far, fault, pieces)

    def _pump(self, source: socket.socket, sink: socket.socket, fault: Fault, pieces: Iterator[int]) -> None:
        with suppress(OSError):
            while some := source.recv(300 if fault is Fault.SLOW else 65536):
                if fault is Fault.SLOW:
                    threading.Event().wait(0.005)
                if next(pieces, None) is None:
                    break
                sink.sendall(some)
        _reset(source)
        _reset(sink)


def _reset(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # Wakes a thread that waits for something to read, which `close` does not.
        connection.shutdown(socket.SHUT_RD)
    connection.close()


@contextmanager
def link_to(address: str) -> Iterator[Link]:
    link = Link(address)
    try:
        yield link
    finally:
        link.close()
