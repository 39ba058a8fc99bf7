"""The addresses of a target, one after the other: of several services, one takes what runs report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from monitor.wire.addresses import each_of
from monitor.wire.channel import Option, open_aio_channel

if TYPE_CHECKING:
    import grpc


class InTurn:
    """Dials one address at a time, and stays with it until told to go on.

    Args:
        target: one address, or several between commas.
        options: of the channels.
    """

    def __init__(self, target: str, options: Sequence[Option]) -> None:
        self._targets = each_of(target)
        self._options = options
        self._failures = 0
        self._place = 0

    @property
    def target(self) -> str:
        """The address that is dialled now."""
        return self._targets[self._place]

    def channel(self) -> grpc.aio.Channel:
        """Return a connection to the service at that address.

        Raises:
            ConfigurationError: the certificates that the environment names cannot be read.
        """
        return open_aio_channel(self.target, self._options)

    def go_on(self, *, progressed: bool) -> bool:
        """Dial the next address from now on, and return whether all have failed since one took something.

        Args:
            progressed: whether this one did, before it failed.
        """
        self._failures = 1 if progressed else self._failures + 1
        self._place = (self._place + 1) % len(self._targets)
        return self._failures % len(self._targets) == 0
