"""The addresses of a target, one after the other: of several services, one takes what runs report."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from monitor.wire.addresses import each_of
from monitor.wire.channel import Option, open_aio_channel
from monitor.wire.monitor_pb2_grpc import MonitorServiceStub

if TYPE_CHECKING:
    import grpc


class InTurn:
    """Dials one address at a time, and stays with it until told to go on. Leaving the context closes the connection.

    Args:
        target: one address, or several between commas.
        options: of the channel.
    """

    def __init__(self, target: str, options: Sequence[Option]) -> None:
        self._targets = each_of(target)
        self._options = options
        self._failures = 0
        self._place = 0
        self._channel: grpc.aio.Channel | None = None

    @property
    def target(self) -> str:
        """The address that is dialled now."""
        return self._targets[self._place]

    def stub(self) -> MonitorServiceStub:
        """Return what calls the service at that address.

        Raises:
            ConfigurationError: the certificates that the environment names cannot be read.
        """
        if self._channel is None:
            self._channel = open_aio_channel(self.target, self._options)
        return MonitorServiceStub(self._channel)

    async def go_on(self, *, progressed: bool) -> bool:
        """Dial the next address from now on, and return whether all have failed since one took something.

        Args:
            progressed: whether this one did, before it failed.
        """
        self._failures = 1 if progressed else self._failures + 1
        if len(self._targets) > 1:
            await self._close()
            self._place = (self._place + 1) % len(self._targets)
        return self._failures % len(self._targets) == 0

    async def __aenter__(self) -> InTurn:
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        await self._close()

    async def _close(self) -> None:
        if self._channel is not None:
            await self._channel.close()
        self._channel = None
