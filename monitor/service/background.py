"""What a service does beside answering, for as long as a context is open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager


@asynccontextmanager
async def in_background(work: Callable[[], Coroutine[None, None, None]]) -> AsyncIterator[None]:
    """Let something that never ends by itself go on while the context is open, and wait for its end after that."""
    task = asyncio.create_task(work())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
