"""Items as they came: each with its message and its bytes."""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.message import DecodeError

from monitor.service.errors import RequestOrderError, UnreadableRequestError
from monitor.wire.monitor_pb2 import Item, ReportRequest


class Received:
    """An item that came, on its way into the store.

    Args:
        content: the bytes that the item was read from; None where they are not at hand.
    """

    def __init__(self, item: Item, content: bytes | None = None) -> None:
        self.item = item
        self._content = content

    @property
    def content(self) -> bytes:
        """What is stored of it: a serialized Item."""
        if self._content is None:
            self._content = self.item.SerializeToString()
        return self._content

    def changed(self) -> None:
        """The item, no observation, is another now."""
        self._content = None


def received_in(request: ReportRequest, most: int) -> list[Received]:
    """Return the items that a request brings; none of a heartbeat.

    Raises:
        RequestOrderError: it is neither, or has more than `most` items.
        UnreadableRequestError: what it has for an item is none.
    """
    match request.WhichOneof("kind"):
        case "item":
            return [Received(request.item)]
        case "items":
            return _each(request.items.items, most)
        case "heartbeat":
            return []
        case kind:
            raise RequestOrderError(
                f"{kind or 'an empty request'} came where an item or a heartbeat was expected; open another stream for "
                "another attempt"
            )


def _each(contents: Sequence[bytes], most: int) -> list[Received]:
    if len(contents) > most:
        raise RequestOrderError(
            f"{len(contents)} items came in one request; this service takes {most} at a time, as it says in "
            "RegisterRunResponse.max_request_items"
        )
    try:
        # One by one: each keeps what it was read from in memory for as long as it is shown.
        return [Received(Item.FromString(content), content) for content in contents]
    except DecodeError as error:
        raise UnreadableRequestError(
            f"an item came that is none: {error}. A client of another program must send what "
            "proto/sparsity_monitor/v1/monitor.proto says"
        ) from error
