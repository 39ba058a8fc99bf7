"""The addresses of a target, one after the other: of several services, one takes what runs report."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from monitor.report.uploader.failures import Failure, Lasts
from monitor.wire.addresses import each_of
from monitor.wire.channel import Option, open_aio_channel

if TYPE_CHECKING:
    import grpc


class InTurn:
    """Dials one address at a time, and stays with it until a try fails.

    Args:
        target: one address, or several between commas.
        options: of the channels.
    """

    def __init__(self, target: str, options: Sequence[Option]) -> None:
        self._targets = each_of(target)
        self._options = options
        self._tries = 0
        self._place = 0
        # Of each address the last one, since one of them took something.
        self._failures: dict[str, Failure] = {}
        self._refusals: dict[str, Failure] = {}

    @property
    def target(self) -> str:
        """The address that is dialled now."""
        return self._targets[self._place]

    @property
    def problem(self) -> str:
        """Why the addresses took nothing when they were tried last, each in words."""
        return "; ".join(self._failures[each].text for each in self._targets if each in self._failures)

    @property
    def refusals(self) -> dict[str, str]:
        """Why addresses take nothing until somebody changes that, where the target has others: address → reason."""
        if len(self._targets) == 1:
            return {}
        return {address: failure.text for address, failure in self._refusals.items()}

    def channel(self) -> grpc.aio.Channel:
        """Return a connection to the service at that address.

        Raises:
            ConfigurationError: the certificates that the environment names cannot be read.
        """
        return open_aio_channel(self.target, self._options)

    def fail(self, failure: Failure, *, progressed: bool) -> None:
        """Take note of why a try at this address failed.

        Args:
            progressed: whether the service took something before.
        """
        if progressed:
            self._tries, self._failures = 0, {}
        self._tries += 1
        self._failures[self.target] = failure
        if failure.lasts in (Lasts.AT_ADDRESS, Lasts.WITHOUT_ACCESS):
            self._refusals[self.target] = failure
        else:
            self._refusals.pop(self.target, None)

    def take(self) -> None:
        """Take note that this address takes what it is sent."""
        self._refusals.pop(self.target, None)

    def all_fail(self, kinds: Collection[Lasts]) -> bool:
        """Return whether each address was tried, and failed in one of these ways."""
        return all(each in self._failures and self._failures[each].lasts in kinds for each in self._targets)

    def go_on(self) -> bool:
        """Dial the next address from now on, and return whether all have failed since one took something."""
        self._place = (self._place + 1) % len(self._targets)
        return self._tries % len(self._targets) == 0

    def begin_again(self) -> None:
        """Forget why tries failed: what comes next is another run's."""
        self._tries, self._failures = 0, {}
