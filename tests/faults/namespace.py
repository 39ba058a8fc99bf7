"""A network of one wire, between here and a network namespace, that can be cut, be slow, and lose packets.

By the kernel itself: the wire is a pair of virtual Ethernet devices (iproute2). Packets are lost in the short queue of
a token bucket, which drops what has no room, or at random (nftables, for a kernel may have no `netem`).
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

_CLONE_NEWNET = 0x40000000
# A packet counts as lost on the way that it did not finish.
_LOSSY = """
table ip lossy {{
    counter there {{ }}
    counter back {{ }}
    chain input {{ type filter hook input priority 0; numgen random mod 100 < {percent} counter name there drop; }}
    chain output {{ type filter hook output priority 0; numgen random mod 100 < {percent} counter name back drop; }}
}}
"""


class Wire:
    """Leads to a namespace; one end of it is here.

    Attributes:
        address: of the other end.
    """

    def __init__(self, name: str, address: str) -> None:
        self._name = name
        self.address = address

    def enter(self) -> None:
        """Move the calling process to the other end, as its `preexec_fn`."""
        descriptor = os.open(f"/run/netns/{self._name}", os.O_RDONLY)
        if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
        os.close(descriptor)

    @contextmanager
    def cut(self) -> Iterator[None]:
        """Let nothing through, and say so to nobody."""
        _run("ip", "-n", self._name, "link", "set", "far", "down")
        try:
            yield
        finally:
            _run("ip", "-n", self._name, "link", "set", "far", "up")

    @contextmanager
    def slow(self, rate: str, queue: str) -> Iterator[None]:
        """Let through so much from here, as in "64kbit", and lose what does not fit into a queue, as in "20kb"."""
        _run("tc", "qdisc", "add", "dev", self._name, "root", "tbf", "rate", rate, "burst", "1600", "limit", queue)
        try:
            yield
        finally:
            _run("tc", "qdisc", "del", "dev", self._name, "root")

    @contextmanager
    def lossy(self, percent: int) -> Iterator[None]:
        """Lose so many packets in a hundred at random, on the way there and on the way back, or skip the test."""
        if shutil.which("nft") is None:
            pytest.skip("no packets can be lost at random here: it takes nft, of the Debian package nftables")
        try:
            self._nft("-f", "-", input=_LOSSY.format(percent=percent))
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no packets can be lost at random here: {error.stderr.strip()}")
        try:
            yield
        finally:
            self._nft("delete", "table", "ip", "lossy")

    def lost_at_random(self) -> tuple[int, int]:
        """Return how many packets were lost there and back since it has been lossy."""
        there, back = (self._nft("list", "counter", "ip", "lossy", name) for name in ("there", "back"))
        return _packets(there), _packets(back)

    def _nft(self, *arguments: str, input: str | None = None) -> str:
        return _run("ip", "netns", "exec", self._name, "nft", *arguments, input=input)

    def lost(self) -> int:
        """Return how many packets were lost since it has been slow."""
        found = re.search(r"dropped (\d+)", _run("tc", "-s", "qdisc", "show", "dev", self._name))
        return int(found[1]) if found else 0


@contextmanager
def wire() -> Iterator[Wire]:
    """Make a namespace and the wire to it, or skip the test where that is not allowed."""
    # RFC 2544 keeps these addresses for tests. Of each process other ones: others test beside this one.
    number = os.getpid() % 2**14 * 8
    near, far = (f"198.{18 + (number >> 16)}.{number >> 8 & 255}.{(number & 255) + end}" for end in (1, 2))
    name = f"wire{os.getpid()}"
    try:
        _run("ip", "netns", "add", name)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespace can be made here: {getattr(error, 'stderr', error)}")
    try:
        _run("ip", "link", "add", name, "type", "veth", "peer", "name", "far", "netns", name)
        _run("ip", "addr", "add", f"{near}/29", "dev", name)
        _run("ip", "link", "set", name, "up")
        _run("ip", "-n", name, "addr", "add", f"{far}/29", "dev", "far")
        _run("ip", "-n", name, "link", "set", "far", "up")
        _run("ip", "-n", name, "link", "set", "lo", "up")
        yield Wire(name, far)
    finally:
        # With it goes the wire.
        _run("ip", "netns", "del", name)


def _packets(counter: str) -> int:
    found = re.search(r"packets (\d+)", counter)
    assert found is not None, counter
    return int(found[1])


def _run(*command: str, input: str | None = None) -> str:
    return subprocess.run(command, input=input, capture_output=True, text=True, check=True, timeout=60).stdout
