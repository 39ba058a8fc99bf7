"""How many items of the spool go into one request: several, where the service says that it takes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from monitor.wire.monitor_pb2 import Item, Items, RegisterRunResponse, ReportRequest

# Upper bound on what a request adds to the items in it, and on what it adds to each.
_ENVELOPE_BYTES = 16
_BYTES_BESIDE_ITEM = 16
# Of several items together: on a slow network, the answer to a request must not take much longer than to an item.
_MOST_BYTES_TOGETHER = 1024 * 1024

Row = tuple[int, bytes]
"""Sequence number and serialized Item."""


@dataclass(frozen=True, slots=True)
class Packing:
    """What a service takes in one request.

    Attributes:
        max_bytes: of the request.
        max_items: 1 for services that take no more, as earlier ones do.
    """

    max_bytes: int
    max_items: int

    @classmethod
    def of(cls, response: RegisterRunResponse) -> Packing:
        """Return what the service said when the attempt was registered."""
        return cls(response.max_request_bytes, max(1, response.max_request_items))

    @property
    def max_item_bytes(self) -> int:
        """Size of the largest item that a request can bring."""
        return self.max_bytes - _ENVELOPE_BYTES

    def requests(self, rows: Sequence[Row]) -> Iterator[tuple[list[int], ReportRequest]]:
        """Yield requests that bring items in their order, each with the numbers of the items in it."""
        start = 0
        while start < len(rows):
            end = self._end(rows, start)
            yield [sequence for sequence, _item in rows[start:end]], self._request(rows[start:end])
            start = end

    def _end(self, rows: Sequence[Row], start: int) -> int:
        """Return where the request ends that begins with a row; it has that one in any case."""
        room = min(self.max_item_bytes, _MOST_BYTES_TOGETHER)
        for index in range(start, min(start + self.max_items, len(rows))):
            room -= len(rows[index][1]) + _BYTES_BESIDE_ITEM
            if room < 0:
                return max(index, start + 1)
        return min(start + self.max_items, len(rows))

    def _request(self, rows: Sequence[Row]) -> ReportRequest:
        if self.max_items == 1:
            return ReportRequest(item=Item.FromString(rows[0][1]))
        # Also one alone: as bytes, it is read by the service only, and stored as it is.
        return ReportRequest(items=Items(items=[item for _sequence, item in rows]))
