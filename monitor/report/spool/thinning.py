"""What is left out where there is no room for all, so that what stays lies evenly over all that there was."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

# Of a bound that is met, how much is made free at once: looking through all that is kept costs time.
FREED_AT_ONCE = 8


class Kept(NamedTuple):
    """An item that could be left out.

    Attributes:
        series: what it is one of many of, such as the observations of an attempt.
        sequence: its number.
        size: bytes.
    """

    series: tuple[str | int, ...]
    sequence: int
    size: int


def left_out(items: Sequence[Kept], excess: int) -> list[Kept]:
    """Return which items to leave out, so that what stays has at least `excess` bytes less.

    Of each series, the next one to go is the one whose neighbours are nearest to each other: every second of what is
    closest together, the oldest first, and so on. The first and the last of each go only where nothing else is left,
    the oldest first, and the last of all never.

    Args:
        items: the oldest first.
    """
    series: defaultdict[tuple[str | int, ...], list[Kept]] = defaultdict(list)
    for item in items:
        series[item.series].append(item)
    gone: list[Kept] = []
    for item in _in_turn([sorted(each, key=lambda item: item.sequence) for each in series.values()]):
        if excess <= 0:
            return gone
        gone.append(item)
        excess -= item.size
    for item in _ends(items[:-1], gone):
        if excess <= 0:
            return gone
        gone.append(item)
        excess -= item.size
    return gone


def _in_turn(series: Sequence[Sequence[Kept]]) -> Iterable[Kept]:
    """Yield all but the first and the last of each series, in the order in which they go."""
    items = [item for each in series for item in each]
    before, after = list(range(-1, len(items) - 1)), list(range(1, len(items) + 1))
    stays = [False] * len(items)
    start = 0
    for each in series:
        stays[start] = stays[start + len(each) - 1] = True
        start += len(each)

    def gap(index: int) -> int:
        return items[after[index]].sequence - items[before[index]].sequence

    waiting = [(gap(index), index) for index in range(len(items)) if not stays[index]]
    heapq.heapify(waiting)
    while waiting:
        found, index = heapq.heappop(waiting)
        if (now := gap(index)) > found:
            # A neighbour went meanwhile.
            heapq.heappush(waiting, (now, index))
            continue
        after[before[index]], before[after[index]] = after[index], before[index]
        yield items[index]


def _ends(items: Sequence[Kept], gone: Sequence[Kept]) -> Iterable[Kept]:
    known = set(gone)
    return (item for item in items if item not in known)


def kind_of(item: bytes) -> int:
    """Return which kind of thing a serialized Item holds, of which its beginning is enough; 0 where that is not known.

    The number of the kind's field. A whole observation need not be read for it.
    """
    # Field 1, the sequence number: a varint, each byte but the last of which has the highest bit set.
    if item[:1] != b"\x08":
        return 0
    end = next((index for index, byte in enumerate(item[1:11], 1) if byte < 0x80), None)
    return 0 if end is None or end + 1 >= len(item) else item[end + 1] >> 3
