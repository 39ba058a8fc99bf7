"""Work on a few blocks at once, ahead of the one that is wanted: zstandard, numpy and hashes leave the interpreter."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol, TypeVar

from monitor.analysis.processors import processors

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

# More wait for the checksums, each of which has to go through its bytes in order.
_MOST_THREADS = 8


@contextmanager
def worker_threads() -> Iterator[ThreadPoolExecutor]:
    """Give threads to a `with` statement; at its end, what has not begun never does."""
    pool = ThreadPoolExecutor(_thread_count(), thread_name_prefix="delta")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def in_order(pool: ThreadPoolExecutor, work: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
    """Yield what `work` makes of each item, in order; only a few results are ever kept."""
    pending: deque[Future[_Result]] = deque()
    for item in items:
        pending.append(pool.submit(work, item))
        if len(pending) > _thread_count():
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


class Digest(Protocol):
    """A checksum that is still going on."""

    def update(self, data: memoryview, /) -> None:
        """Take more bytes."""


def update_all(pool: ThreadPoolExecutor, updates: Iterable[tuple[Digest, memoryview]]) -> None:
    """Take bytes into several checksums side by side, and wait for all."""
    for done in [pool.submit(digest.update, data) for digest, data in updates]:
        done.result()


def _thread_count() -> int:
    return min(_MOST_THREADS, processors())
