"""A proxy in a process of its own that refuses every request, and remembers what it was asked for."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

# Every variable in which a program may look for a proxy.
VARIABLES = [
    name
    for scheme in ("http", "https", "grpc", "all")
    for name in (f"{scheme}_proxy", f"{scheme}_proxy".upper())
]  # fmt: skip
EXCEPTIONS = ["no_proxy", "NO_PROXY", "no_grpc_proxy"]

_PROXY = """
import socketserver, sys

class Refuse(socketserver.StreamRequestHandler):
    timeout = 10

    def handle(self):
        with open(sys.argv[1], "ab") as asked:
            asked.write(self.rfile.readline())
        while self.rfile.readline().strip():
            pass
        self.wfile.write(b"HTTP/1.1 403 Forbidden\\r\\nContent-Length: 0\\r\\nConnection: close\\r\\n\\r\\n")

with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Refuse) as server:
    print(server.server_address[1], flush=True)
    server.serve_forever()
"""


class RefusingProxy:
    """Where the proxy is, and what it was asked for."""

    def __init__(self, port: int, record: Path) -> None:
        self.address = f"127.0.0.1:{port}"
        self._record = record

    def url(self, credentials: str = "") -> str:
        return f"http://{credentials}{self.address}"

    @property
    def asked(self) -> list[str]:
        """Method and target of each request, such as "CONNECT a.example:443"."""
        lines = self._record.read_text().splitlines() if self._record.exists() else []
        return [line.rpartition(" ")[0] for line in lines]


@contextlib.contextmanager
def refusing_proxy(directory: Path) -> Iterator[RefusingProxy]:
    """Run the proxy on a free port for as long as the context is open."""
    record = directory / "asked"
    process = subprocess.Popen([sys.executable, "-c", _PROXY, record], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield RefusingProxy(int(process.stdout.readline()), record)
    finally:
        process.kill()
        process.communicate()
