"""A bound on what is in memory at a time of all that many streams bring."""

from __future__ import annotations

import asyncio
from collections import deque


class Budget:
    """Lets in so much at a time, who comes first, first; and alone, what is more than that. Of one asyncio loop.

    Args:
        most: bytes.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, size: int) -> None:
        """Wait until there is room for `size`, which is kept until it is given back."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        self._let_in()
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self._taken -= size
            # Others waited behind it.
            self._let_in()
            raise

    def give_back(self, size: int) -> None:
        """Make room again."""
        self._taken -= size
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting:
            size, turn = self._waiting[0]
            if not turn.cancelled():
                if self._taken and self._taken + size > self._most:
                    return
                self._taken += size
                turn.set_result(None)
            self._waiting.popleft()
