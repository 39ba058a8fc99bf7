"""What a service does beside answering, for as long as a context is open."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager

logger = logging.getLogger(__name__)

Work = Callable[[], Coroutine[None, None, None]]

_AGAIN_SECONDS = 10.0
# How often it is said of what goes on failing in the same way.
_SAID_AGAIN_SECONDS = 600.0


@asynccontextmanager
async def in_background(
    work: Work, what: str, *, meanwhile: str, count_failure: Callable[[], object]
) -> AsyncIterator[None]:
    """Let something that never ends by itself go on while the context is open, and wait for its end after that.

    Where it fails, that is logged at once, and it begins again.

    Args:
        what: it does, for the log: "looking for new tokens".
        meanwhile: how things are while it does not.
        count_failure: called at each.
    """
    task = asyncio.create_task(_again_and_again(work, what, meanwhile, count_failure))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _again_and_again(work: Work, what: str, meanwhile: str, count_failure: Callable[[], object]) -> None:
    said, say_again_at = "", -math.inf
    while True:
        try:
            await work()
        except Exception as error:
            count_failure()
            if repr(error) != said or time.monotonic() >= say_again_at:
                said, say_again_at = repr(error), time.monotonic() + _SAID_AGAIN_SECONDS
                logger.exception(
                    "%s failed, and is tried again every %g seconds. Until it succeeds, %s. This is an error of the "
                    "service, which goes on with everything else: restart it if that lasts, and report this",
                    what,
                    _AGAIN_SECONDS,
                    meanwhile,
                )
        await asyncio.sleep(_AGAIN_SECONDS)
