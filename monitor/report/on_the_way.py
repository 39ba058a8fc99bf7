"""What of an attempt was sent: an item that leaves the full spool on its way is lost only if it does not arrive."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import takewhile


class OnTheWay:
    """The numbers of items that were sent and are not acknowledged, in order. They outlive a connection that breaks."""

    def __init__(self) -> None:
        self._sent: deque[int] = deque()

    def send(self, sequence: int) -> None:
        """Note an item, unless it is sent again."""
        if not self._sent or sequence > self._sent[-1]:
            self._sent.append(sequence)

    def reject(self, sequence: int) -> None:
        """Forget an item that the service refused."""
        if sequence in self._sent:
            self._sent.remove(sequence)

    def up_to(self, last: int) -> list[int]:
        """Return those up to a number."""
        return list(takewhile(lambda sequence: sequence <= last, self._sent))

    def arrive(self, last: int) -> None:
        """Forget those up to a number, which is acknowledged."""
        while self._sent and self._sent[0] <= last:
            self._sent.popleft()

    def begin_again(self, known: Iterable[int]) -> None:
        """Forget what a connection that broke did not carry; these the service has, and they are yet to be removed."""
        self._sent = deque(known)
