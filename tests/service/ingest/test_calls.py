from __future__ import annotations

import asyncio
import gc
import re
import threading
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from sqlalchemy import Connection, Engine, event

from monitor.service.errors import StoreError
from monitor.service.ingest.calls import Ingest, answers
from monitor.service.metrics.instruments import Instruments
from monitor.service.recording.commits import Attempt, Commits, Outcome
from monitor.service.recording.received import Received
from monitor.service.recording.recorder import Recorder
from monitor.service.storage.sqlite_file.held import HeldFile
from monitor.service.storage.stored import START
from monitor.wire import PROTOCOL_VERSION
from monitor.wire import monitor_pb2 as pb
from tests.eventually import eventually
from tests.service.messages import (
    finished,
    heartbeat,
    logged,
    new_run_id,
    observed,
    opening,
    register_request,
    registration,
    stream_of,
    together,
)
from tests.service.running import Client, OpenStream, settings_for


def _refused(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as refused:
        call()
    return refused.value.code(), str(refused.value.details())


def _answers(responses: list[pb.ReportResponse]) -> list[tuple[str, int]]:
    named = []
    for response in responses:
        kind = response.WhichOneof("kind")
        assert kind is not None
        named.append((kind, getattr(response, kind).sequence))
    return named


def test_registering_tells_the_version_and_the_limits(client: Client, run_id: str) -> None:
    response = client.register(registration(run_id))
    assert response.protocol_version == PROTOCOL_VERSION
    assert response.last_sequence == 0
    assert response.max_request_bytes == 8 * 1024 * 1024
    assert response.max_request_items == 64


def test_registering_again_tells_where_to_go_on(client: Client, run_id: str) -> None:
    client.register(registration(run_id))
    client.send(run_id, [observed(1), observed(2)])
    assert client.register(registration(run_id)).last_sequence == 2


@pytest.mark.parametrize(("version", "side"), [(0, "sender"), (PROTOCOL_VERSION + 1, "service")])
def test_another_protocol_is_refused_with_both_versions(client: Client, run_id: str, version: int, side: str) -> None:
    code, details = _refused(lambda: client.stub.RegisterRun(register_request(registration(run_id), version)))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert f"version {version}, the service {PROTOCOL_VERSION}" in details
    assert f"on the side of the {side}" in details


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"name": "another"}, grpc.StatusCode.ALREADY_EXISTS),
        ({"attempt": 2, "visible_dtype": "float32"}, grpc.StatusCode.FAILED_PRECONDITION),
        ({"attempt": 0}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"labels": {str(number): "" for number in range(40)}}, grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
def test_a_registration_is_refused_with_the_status_of_the_contract(
    client: Client, run_id: str, changes: dict[str, Any], expected: grpc.StatusCode
) -> None:
    client.register(registration(run_id))
    code, _details = _refused(lambda: client.register(registration(run_id, **changes)))
    assert code is expected


def test_a_full_service_says_so_and_counts_it(start: Callable[..., Client]) -> None:
    client = start(max_runs=1)
    client.register(registration("first"))
    assert client.metric("limit_hits_total", limit="max_runs") == 0, "a rate needs the value before"
    code, details = _refused(lambda: client.register(registration("second")))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "--max-runs" in details
    assert client.metric("limit_hits_total", limit="max_runs") == 1


def test_items_are_acknowledged_and_read_back(client: Client, run_id: str) -> None:
    client.register(registration(run_id))
    items = [observed(1), logged(2, loss=0.5), finished(3, step=2)]
    assert _answers(client.send(run_id, items))[-1] == ("acknowledgement", 3)
    history = client.history(run_id)
    assert sorted(response.item.sequence for response in history) == [1, 2, 3]
    assert [response.item for response in history if response.item.sequence == 1] == [items[0]]
    assert {response.attempt for response in history} == {1}


def test_an_acknowledged_item_can_be_read_at_once(client: Client, run_id: str) -> None:
    client.register(registration(run_id))
    stream = OpenStream(client)
    stream.send(opening(run_id))
    for sequence in range(1, 6):
        answer = stream.exchange(pb.ReportRequest(item=observed(sequence)))
        assert answer.acknowledgement.sequence == sequence
        assert [response.item.sequence for response in client.history(run_id)][-1] == sequence
        assert client.run(run_id).last_step == sequence
    stream.end()


def test_items_that_are_sent_again_are_stored_once(client: Client, run_id: str) -> None:
    client.register(registration(run_id))
    for _ in range(3):
        assert _answers(client.send(run_id, [observed(1), observed(2)]))[-1] == ("acknowledgement", 2)
    assert len(client.history(run_id)) == 2
    assert client.run(run_id).observations == 2


def test_a_bad_item_is_rejected_and_those_around_it_are_stored(client: Client, run_id: str) -> None:
    client.register(registration(run_id))
    items = [observed(1), observed(2, changed=[1]), pb.Item(sequence=3), observed(4), observed(0, step=9), observed(5)]
    responses = client.send(run_id, items)
    answered = _answers(responses)
    rejected = [sequence for kind, sequence in answered if kind == "rejection"]
    assert rejected == [2, 3, 0]
    assert [sequence for _kind, sequence in answered if sequence] == sorted(
        sequence for _kind, sequence in answered if sequence
    )
    assert answered[-1] == ("acknowledgement", 5)
    assert [response.item.sequence for response in client.history(run_id)] == [1, 4, 5]
    reasons = [response.rejection.reason for response in responses if response.HasField("rejection")]
    assert "changed has 1 entries; expected one per group" in reasons[0]


def test_nothing_behind_a_rejected_item_is_acknowledged_before_it() -> None:
    outcomes = [Outcome(1), Outcome(2), Outcome(3, "bad"), Outcome(4, "bad"), Outcome(5), Outcome(6)]
    assert _answers(list(answers(outcomes))) == [
        ("acknowledgement", 2),
        ("rejection", 3),
        ("rejection", 4),
        ("acknowledgement", 6),
    ]
    assert list(answers([])) == []


def test_gaps_in_the_numbers_are_the_senders_own(client: Client, run_id: str) -> None:
    client.register(registration(run_id))
    client.send(run_id, [observed(3), observed(7)])
    assert [response.item.sequence for response in client.history(run_id)] == [3, 7]
    assert client.register(registration(run_id)).last_sequence == 7


@pytest.fixture
def slow_disk() -> Iterator[None]:
    """Stores whose transactions take their time, as on a disk that spins."""

    def take_time(_connection: Connection) -> None:
        time.sleep(0.02)

    event.listen(Engine, "commit", take_time)
    yield
    event.remove(Engine, "commit", take_time)


@pytest.mark.usefixtures("slow_disk")
def test_a_sender_that_catches_up_costs_few_transactions(start: Callable[..., Client]) -> None:
    client = start()
    client.register(registration("run"))
    client.send("run", [observed(sequence) for sequence in range(1, 501)])
    commits = client.metric("store_commit_seconds_count")
    assert client.metric("items_stored_total") == 500
    assert commits is not None
    # Nine, if each takes as many as it may.
    assert commits <= 40


def test_what_comes_meanwhile_waits_to_be_stored_and_is_not_acknowledged_behind_what_failed(
    start: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = start(max_batch_items=2)
    client.register(registration("run"))
    brought: list[int] = []
    writing, second_brought, add, confirm = threading.Event(), threading.Event(), Commits.add, HeldFile.confirm

    async def noting(
        self: Commits, attempt: Attempt, items: Sequence[Received], heartbeat: pb.Heartbeat | None
    ) -> list[Outcome]:
        brought.append(len(items))
        if len(brought) == 2:
            assert await asyncio.to_thread(writing.wait, 60)
            second_brought.set()
        return await add(self, attempt, items, heartbeat)

    def failing_once(self: HeldFile, shrinks_to: int | None = None) -> None:
        if brought and not writing.is_set():
            writing.set()
            assert second_brought.wait(60)
            raise StoreError("the store is out of reach")
        confirm(self, shrinks_to)

    monkeypatch.setattr(Commits, "add", noting)
    monkeypatch.setattr(HeldFile, "confirm", failing_once)
    requests = [together([observed(1), observed(2)]), together([observed(3), observed(4)])]
    code, details = _refused(lambda: client.report([opening("run"), *requests]))
    assert (code, details) == (grpc.StatusCode.UNAVAILABLE, "the store is out of reach")
    assert brought == [2, 2]
    responses = client.report([opening("run"), *requests])
    assert _answers(responses)[-1] == ("acknowledgement", 4)
    assert [entry.item.sequence for entry in client.history("run")] == [1, 2, 3, 4]
    assert client.metric("run_observations") == 4


class _InTurn(Recorder):
    """Records a batch when it is let: each is named after its first item."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.asked: list[list[int]] = []
        self.let: defaultdict[int, asyncio.Event] = defaultdict(asyncio.Event)

    async def record(
        self, attempt: Attempt, batch: Sequence[Received], heartbeat: pb.Heartbeat | None
    ) -> list[Outcome]:
        self.asked.append([received.item.sequence for received in batch])
        await self.let[self.asked[-1][0]].wait()
        return await super().record(attempt, batch, heartbeat)

    async def is_asked(self, *batches: list[int]) -> None:
        while self.asked != [*batches]:
            await asyncio.sleep(0)


class _Call:
    """The part of a call that a stream is answered by."""

    def __init__(self) -> None:
        self.answers: list[pb.ReportResponse] = []

    async def write(self, response: pb.ReportResponse) -> None:
        self.answers.append(response)

    async def abort(self, code: grpc.StatusCode, *_: object) -> None:
        raise _AbortedError(code)


class _AbortedError(Exception):
    pass


def test_nothing_behind_a_request_out_of_turn_is_stored_while_what_came_before_it_is(tmp_path: Path) -> None:
    async def main() -> None:
        settings, instruments, call = settings_for(tmp_path / "store.db"), Instruments(), _Call()
        recorder = _InTurn(settings, instruments)
        await recorder.register(registration("run"))

        async def requests() -> AsyncIterator[pb.ReportRequest]:
            # When it is asked for more, what it gave has been read.
            yield opening("run")
            yield pb.ReportRequest(item=observed(1))
            await recorder.is_asked([1])
            yield pb.ReportRequest(item=observed(2))
            await recorder.is_asked([1], [2])
            yield pb.ReportRequest(item=observed(3))
            yield pb.ReportRequest()
            recorder.let[1].set()
            await recorder.is_asked([1], [2], [3])
            yield pb.ReportRequest(item=observed(4))
            recorder.let[2].set()
            # Far more turns of the loop than it takes to ask for the next.
            for _ in range(1000):
                await asyncio.sleep(0)
            recorder.let[3].set()
            recorder.let[4].set()
            await asyncio.Event().wait()

        try:
            with pytest.raises(_AbortedError, match="INVALID_ARGUMENT"):
                await Ingest(settings, recorder, instruments).Report(requests(), cast(Any, call))
            assert recorder.asked == [[1], [2], [3]]
            assert _answers(call.answers) == [("acknowledgement", number) for number in (1, 2, 3)]
            stored = await recorder.history("run", START, 10)
            assert [each.position.sequence for each in stored] == [1, 2, 3]
        finally:
            await recorder.close()

    asyncio.run(asyncio.wait_for(main(), timeout=60))


def test_many_that_catch_up_at_once_take_turns(start: Callable[..., Client], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monitor.service.ingest.calls._MOST_BYTES", 4 * observed(1).ByteSize())
    client = start(max_batch_items=4)
    runs = [f"run-{number}" for number in range(12)]
    for run in runs:
        client.register(registration(run))

    def catch_up(run: str) -> int:
        gone = OpenStream(client)
        gone.send(opening(run), *(pb.ReportRequest(item=observed(number)) for number in range(1, 20)))
        gone.cancel()
        items = [observed(number) for number in range(1, 51)]
        return _answers(
            client.report([*stream_of(run, items[:3]), together(items[3:7]), *stream_of(run, items[7:])[1:]])
        )[-1][1]

    with ThreadPoolExecutor(len(runs)) as pool:
        assert list(pool.map(catch_up, runs)) == [50] * len(runs)
    assert client.metric("items_stored_total") == 50 * len(runs)


def test_an_item_over_the_limit_is_rejected_and_the_stream_goes_on(start: Callable[..., Client]) -> None:
    client = start(max_request_bytes=4096)
    assert client.register(registration("run")).max_request_bytes == 4096
    responses = client.send("run", [observed(1), finished(2, reason="x" * 5000), observed(3)])
    assert _answers(responses) == [("acknowledgement", 1), ("rejection", 2), ("acknowledgement", 3)] or _answers(
        responses
    ) == [("rejection", 2), ("acknowledgement", 3)]
    reason = next(response.rejection.reason for response in responses if response.HasField("rejection"))
    assert "this service allows 4096" in reason
    assert "--max-request-bytes" in reason
    assert client.metric("limit_hits_total", limit="max_request_bytes") == 1


def test_a_registration_over_the_limit_is_refused(start: Callable[..., Client]) -> None:
    client = start(max_request_bytes=4096)
    groups = [pb.Group(layer=layer, module="a_module_with_a_long_name", weights=1) for layer in range(200)]
    code, details = _refused(lambda: client.register(registration("run", groups=groups, references=[])))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "bytes given; this service allows 4096" in details
    assert client.metric("limit_hits_total", limit="max_request_bytes") == 1


def test_a_request_far_over_the_limit_ends_its_stream_only(start: Callable[..., Client]) -> None:
    client = start(max_request_bytes=4096)
    client.register(registration("run"))
    code, _details = _refused(lambda: client.send("run", [finished(1, reason="x" * 100_000)]))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert _answers(client.send("run", [observed(1)])) == [("acknowledgement", 1)]


@pytest.mark.parametrize("attempt", [0, 2, 2**32 - 1])
def test_reporting_for_an_unknown_attempt_tells_to_register(client: Client, run_id: str, attempt: int) -> None:
    client.register(registration(run_id))
    code, details = _refused(lambda: client.send(run_id, [observed(1)], attempt=attempt))
    assert code is grpc.StatusCode.NOT_FOUND
    assert "RegisterRun" in details


@pytest.mark.parametrize("run", ["never-registered", "", "a\0b"])
def test_reporting_for_an_unknown_run_tells_to_register(client: Client, run: str) -> None:
    code, details = _refused(lambda: client.send(run, [observed(1)]))
    assert code is grpc.StatusCode.NOT_FOUND
    assert "RegisterRun" in details


@pytest.mark.parametrize(
    "requests",
    [
        [],
        [pb.ReportRequest()],
        [heartbeat()],
        [pb.ReportRequest(item=observed(1))],
    ],
)
def test_a_stream_starts_with_open(client: Client, requests: list[pb.ReportRequest]) -> None:
    code, details = _refused(lambda: client.report(requests))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "`open`" in details


@pytest.mark.parametrize(("stray", "named"), [(opening("x"), "open"), (pb.ReportRequest(), "an empty request")])
def test_a_request_out_of_turn_ends_the_stream_after_what_came_before(
    client: Client, run_id: str, stray: pb.ReportRequest, named: str
) -> None:
    client.register(registration(run_id))
    requests = [*stream_of(run_id, [observed(1)]), stray, pb.ReportRequest(item=observed(2))]
    code, details = _refused(lambda: client.report(requests))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert named in details
    assert [response.item.sequence for response in client.history(run_id)] == [1]


def test_bytes_that_are_no_request_end_their_stream_only(client: Client, run_id: str) -> None:
    client.register(registration(run_id))
    call: Any = client.channel.stream_stream("/sparsity_monitor.v1.MonitorService/Report")
    garbage = [opening(run_id).SerializeToString(), b"\xff\xff\xff"]
    code, _details = _refused(lambda: list(call(iter(garbage), timeout=30)))
    assert code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.INVALID_ARGUMENT)
    assert _answers(client.send(run_id, [observed(1)])) == [("acknowledgement", 1)]


def test_items_that_come_together_are_answered_each_for_itself(client: Client, run_id: str) -> None:
    client.register(registration(run_id))
    items = [observed(1), observed(2, changed=[1]), pb.Item(sequence=3), logged(4, loss=0.5), observed(0, step=9)]
    rest = [observed(5), observed(5, step=7), observed(4)]
    responses = client.report([opening(run_id), together(items), heartbeat(unsent=3), together(rest)])
    answered = _answers(responses)
    assert [sequence for kind, sequence in answered if kind == "rejection"] == [2, 3, 0]
    assert answered[-1] == ("acknowledgement", 5)
    assert client.metric("run_unsent_items", run=run_id) == 3
    history = {response.item.sequence: response.item for response in client.history(run_id)}
    assert history == {1: items[0], 4: items[3], 5: rest[0]}
    assert client.run(run_id).observations == 2


@pytest.mark.parametrize(
    ("stray", "named"),
    [
        (together([observed(sequence) for sequence in range(2, 67)]), "65 items .* takes 64 at a time"),
        (pb.ReportRequest(items=pb.Items(items=[observed(2).SerializeToString(), b"\xff\xff"])), "an item .* is none"),
    ],
    ids=["too many", "garbage"],
)
def test_items_that_cannot_be_taken_end_the_stream_after_what_came_before(
    client: Client, run_id: str, stray: pb.ReportRequest, named: str
) -> None:
    client.register(registration(run_id))
    code, details = _refused(lambda: client.report([opening(run_id), together([observed(1)]), stray]))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert re.search(named, details)
    assert [response.item.sequence for response in client.history(run_id)] == [1]


def test_heartbeats_keep_a_run_alive_and_bring_its_counts(start: Callable[..., Client]) -> None:
    client = start(lost_after_seconds=0.2)
    client.register(registration("run"))
    eventually(lambda: client.run("run").state == pb.RunSummary.STATE_LOST)
    stream = OpenStream(client)
    stream.send(opening("run"), heartbeat(unsent=3, dropped=2))
    eventually(lambda: client.metric("run_unsent_items") == 3)
    stream.send(heartbeat(unsent=0, dropped=2))
    eventually(lambda: client.metric("run_unsent_items") == 0)
    assert client.metric("run_dropped_items") == 2
    eventually(lambda: client.metric("heartbeats_total") == 2)
    assert stream.end() == []
    assert client.history("run") == []


def test_a_silent_observer_is_stalled_while_its_sender_lives(start: Callable[..., Client]) -> None:
    client = start(stalled_after_seconds=0.2)
    client.register(registration("run"))
    eventually(lambda: client.run("run").state == pb.RunSummary.STATE_STALLED)
    client.send("run", [observed(1)])
    assert client.metric("run_state", run="run", state="lost") == 0


def test_open_streams_are_counted(start: Callable[..., Client]) -> None:
    client = start()
    client.register(registration("run"))
    stream = OpenStream(client)
    stream.send(opening("run"))
    eventually(lambda: client.metric("open_streams") == 1)
    stream.cancel()
    eventually(lambda: client.metric("open_streams") == 0)


def test_a_summary_tells_what_a_run_is_and_how_far_it_got(client: Client, run_id: str) -> None:
    message = registration(run_id)
    client.register(message)
    assert client.run(run_id).state == pb.RunSummary.STATE_RUNNING
    assert client.run(run_id).last_observed_at == 0
    client.send(run_id, [observed(1, step=4), finished(2, step=4, reason="out of memory")])
    summary = client.run(run_id)
    assert summary.registration == message
    assert summary.state == pb.RunSummary.STATE_FAILED
    assert summary.reason == "out of memory"
    assert (summary.last_step, summary.last_observed_at, summary.observations) == (4, 1.7e9 + 4, 1)


def test_runs_are_listed_the_most_recently_registered_first(client: Client) -> None:
    names = [new_run_id() for _ in range(3)]
    for name in names:
        client.register(registration(name))
    listed = [run.registration.run_id for run in client.stub.ListRuns(pb.ListRunsRequest()).runs]
    assert listed[:3] == names[::-1]


def test_history_is_in_the_order_of_steps_without_what_was_superseded(client: Client, run_id: str) -> None:
    client.register(registration(run_id))
    client.send(run_id, [observed(1, step=10), observed(2, step=20), observed(3, step=30)])
    client.register(registration(run_id, 2, resumed_from_step=20))
    client.send(run_id, [observed(1, step=30)], attempt=2)
    told = [(response.item.observation.step, response.attempt) for response in client.history(run_id)]
    assert told == [(10, 1), (20, 1), (30, 2)]
    assert [response.item.observation.step for response in client.history(run_id, after_step=20)] == [30]


def test_a_history_longer_than_a_page_is_whole(client: Client, run_id: str) -> None:
    client.register(registration(run_id))
    client.send(run_id, [observed(sequence) for sequence in range(1, 201)])
    assert [response.item.sequence for response in client.history(run_id)] == list(range(1, 201))


def test_a_run_that_ended_before_its_first_step_has_a_history(client: Client, run_id: str) -> None:
    client.register(registration(run_id))
    client.send(run_id, [finished(1, step=0, reason="no data")])
    assert [response.item.finish.reason for response in client.history(run_id)] == ["no data"]


def test_a_refusal_is_told_however_long_what_was_given_is(client: Client, run_id: str) -> None:
    """Status messages travel in headers, percent-encoded, and gRPC drops the whole answer where those are too long."""
    twice = [pb.Reference(name="\N{GRINNING FACE}" * 512, weights=[1, 1, 1])] * 16
    code, details = _refused(lambda: client.register(registration(run_id, references=twice)))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "expected different names" in details


def test_the_history_of_an_unknown_run_is_not_found(client: Client) -> None:
    code, details = _refused(lambda: client.history("never-registered"))
    assert code is grpc.StatusCode.NOT_FOUND
    assert "'never-registered'" in details


def test_of_what_is_stored_nothing_is_kept_while_more_is_waited_for(client: Client, run_id: str) -> None:
    """Of hundreds of streams at once that would be a gigabyte."""
    client.register(registration(run_id))
    # What others left is theirs, and held here, lest something new be taken for it.
    others = {id(each): each for each in _all_received()}
    stream = OpenStream(client)
    stream.send(opening(run_id))
    for first in (1, 3):
        answer = stream.exchange(together([observed(first), observed(first + 1)]))
        assert answer.acknowledgement.sequence == first + 1
    eventually(lambda: all(id(each) in others for each in _all_received()))
    stream.end()


def _all_received() -> list[Received]:
    return [each for each in gc.get_objects() if isinstance(each, Received)]
