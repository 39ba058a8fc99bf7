"""Several items go into one request where the service takes them, and everything arrives once either way."""

from __future__ import annotations

import random
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from monitor.report.push import push
from monitor.report.spool.attempt import AttemptKey
from monitor.report.spool.items import Spool
from monitor.report.uploader.packing import Packing
from monitor.service.ingest import calls
from monitor.service.recording.received import Received, received_in
from monitor.wire import monitor_pb2 as pb
from tests.report.attempts import steps
from tests.service.messages import finished, new_run_id, observed, registration
from tests.service.running import Client

ITEMS = 150


def _brought(requests: list[pb.ReportRequest]) -> list[bytes]:
    """The items of requests, in their order."""
    return [
        each
        for request in requests
        for each in (request.items.items or [request.item.SerializeToString(deterministic=True)])
    ]


@pytest.mark.parametrize("max_items", [1, 2, 7, 64])
@pytest.mark.parametrize("max_bytes", [4096, 8192, 2**20])
def test_requests_bring_everything_in_order_within_what_the_service_takes(max_items: int, max_bytes: int) -> None:
    generator = random.Random(max_items)
    packing = Packing(max_bytes, max_items)
    sizes = [generator.choice([10, 127, 128, 2000, packing.max_item_bytes - 100]) for _ in range(40)]
    items = [finished(sequence, reason="x" * size) for sequence, size in enumerate(sizes, 1)]
    rows = [(item.sequence, item.SerializeToString(deterministic=True)) for item in items]
    packed = list(packing.requests(rows))
    assert _brought([request for _numbers, request in packed]) == [item for _sequence, item in rows]
    assert all(request.ByteSize() <= max_bytes for _numbers, request in packed)
    counts = [max(1, len(request.items.items)) for _numbers, request in packed]
    assert max(counts) <= max_items
    # Each is told by its last item: the sender waits for an answer to that one.
    assert [numbers[-1] for numbers, _request in packed] == [sum(counts[: index + 1]) for index in range(len(counts))]
    assert [number for numbers, _request in packed for number in numbers] == [*range(1, 41)]


def test_as_many_items_as_fit_go_together() -> None:
    rows = [(sequence, observed(sequence).SerializeToString()) for sequence in range(1, 131)]
    together = [len(request.items.items) for _numbers, request in Packing(2**23, 64).requests(rows)]
    assert together == [64, 64, 2]


def test_a_service_that_does_not_say_takes_one_item_at_a_time() -> None:
    assert Packing.of(pb.RegisterRunResponse(max_request_bytes=5000)) == Packing(5000, 1)


def _deliver(client: Client, directory: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Deliver a spool, which must arrive whole, and return the kinds of requests that brought its items."""
    run_id = new_run_id()
    key = AttemptKey(run_id, 1)
    items = [*(observed(sequence) for sequence in range(1, ITEMS + 1)), finished(ITEMS + 1, step=ITEMS)]
    with closing(Spool(directory)) as spool:
        spool.begin(key, registration(run_id).SerializeToString())
        spool.append(key, [(item.sequence, item.SerializeToString()) for item in items], finished=True)
    kinds: list[str] = []

    def noting(request: pb.ReportRequest, most: int) -> list[Received]:
        kinds.append(str(request.WhichOneof("kind")))
        return received_in(request, most)

    monkeypatch.setattr(calls, "received_in", noting)
    assert push(directory, client.listening.grpc_address, patience_seconds=60) == len(items)
    assert steps(client, run_id) == list(range(1, ITEMS + 1))
    assert [entry.item for entry in client.history(run_id)][:ITEMS] == items[:ITEMS]
    return [kind for kind in kinds if kind != "heartbeat"]


def test_a_service_that_takes_several_gets_few_requests(
    client: Client, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _deliver(client, directory, monkeypatch) == ["items"] * 3


def test_an_earlier_service_gets_what_it_knows(
    client: Client, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of_earlier_service(max_request_items: int, **fields: Any) -> pb.RegisterRunResponse:
        assert max_request_items > 1
        return pb.RegisterRunResponse(**fields)

    monkeypatch.setattr(calls, "RegisterRunResponse", of_earlier_service)
    assert _deliver(client, directory, monkeypatch) == ["item"] * (ITEMS + 1)
