"""The service over gRPC: registrations and items in, acknowledgements and history out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from typing import NamedTuple

import grpc
from grpc.aio import ServicerContext

from monitor.service import errors
from monitor.service.ingest.arrivals import Arrivals
from monitor.service.ingest.budget import Budget
from monitor.service.live.runs import LiveRun
from monitor.service.metrics.instruments import Instruments
from monitor.service.quantities.run_state import RunState
from monitor.service.recording.commits import Attempt, Outcome
from monitor.service.recording.received import Received, received_in
from monitor.service.recording.recorder import Recorder
from monitor.service.settings import ServiceSettings
from monitor.service.storage.stored import START, after_step
from monitor.wire import PROTOCOL_VERSION
from monitor.wire.channel import ANSWERED
from monitor.wire.monitor_pb2 import (
    Acknowledgement,
    Heartbeat,
    ListRunsRequest,
    ListRunsResponse,
    ReadHistoryRequest,
    ReadHistoryResponse,
    RegisterRunRequest,
    RegisterRunResponse,
    Rejection,
    ReportRequest,
    ReportResponse,
    RunSummary,
    Thinned,
)
from monitor.wire.monitor_pb2_grpc import MonitorServiceServicer

HISTORY_PAGE_ITEMS = 64

# Of requests that have come and are not yet stored, of all streams. What is made of them takes a few times as much.
_MOST_BYTES = 32 * 1024 * 1024

# Readers before these states were told apart know no name for them.
_KNOWN_TO_ALL = {RunState.STOPPED: RunState.FINISHED, RunState.PREEMPTED: RunState.FAILED}
_STATUS = (
    (errors.MissingScopeError, grpc.StatusCode.PERMISSION_DENIED),
    (errors.NoAccessError, grpc.StatusCode.UNAUTHENTICATED),
    (errors.TooManyRunsError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.InvalidRegistrationError, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.RequestOrderError, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.UnreadableRequestError, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.ProtocolVersionError, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.IncomparableAttemptError, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.RunTakenError, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.ContradictingRegistrationError, grpc.StatusCode.ALREADY_EXISTS),
    (errors.RunInUseError, grpc.StatusCode.ABORTED),
    (errors.UnknownRunError, grpc.StatusCode.NOT_FOUND),
    (errors.StoppingError, grpc.StatusCode.UNAVAILABLE),
    (errors.StoreError, grpc.StatusCode.UNAVAILABLE),
)


class _Brought(NamedTuple):
    """What a batch of requests brings, and what is to be said of the one behind, if that is out of turn."""

    items: list[Received]
    heartbeats: list[Heartbeat]
    problem: errors.ServiceError | None = None


class Ingest(MonitorServiceServicer):
    """Serves MonitorService. Must be made inside the running asyncio loop."""

    def __init__(self, settings: ServiceSettings, recorder: Recorder, instruments: Instruments) -> None:
        self._settings = settings
        self._recorder = recorder
        self._instruments = instruments
        self._budget = Budget(_MOST_BYTES)
        self._stopping: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def serving(self) -> bool:
        return not self._stopping.done()

    def stop(self) -> None:
        """Let every open stream end after what it is storing now, so that its sender connects again elsewhere."""
        if not self._stopping.done():
            self._stopping.set_result(None)

    async def RegisterRun(  # noqa: N802
        self, request: RegisterRunRequest, context: ServicerContext[RegisterRunRequest, RegisterRunResponse]
    ) -> RegisterRunResponse:
        try:
            _check_protocol(request.protocol_version)
            self._check_size(request)
            last = await self._recorder.register(request.registration, request.sent_at)
        except errors.ServiceError as error:
            await context.abort(*_status(error), ANSWERED)
        return RegisterRunResponse(
            protocol_version=PROTOCOL_VERSION,
            last_sequence=last,
            max_request_bytes=self._settings.max_request_bytes,
            max_request_items=self._settings.max_batch_items,
        )

    async def Report(  # noqa: N802
        self, requests: AsyncIterator[ReportRequest], context: ServicerContext[ReportRequest, ReportResponse]
    ) -> None:
        limit = self._settings.max_batch_items
        try:
            with self._instruments.open_streams.track_inprogress():
                async with Arrivals(requests, limit, self._budget, self._stopping) as arrivals:
                    attempt = self._opened(await arrivals.next())
                    arrivals.stored()
                    await self._store_all(attempt, arrivals, context)
            if not self.serving:
                raise errors.StoppingError("the service is stopping; connect again and send what is not acknowledged")
        except errors.ServiceError as error:
            await context.abort(*_status(error), ANSWERED)

    async def ListRuns(  # noqa: N802
        self, _request: ListRunsRequest, _context: ServicerContext[ListRunsRequest, ListRunsResponse]
    ) -> ListRunsResponse:
        now = time.time()
        return ListRunsResponse(runs=[_summary(run, now, self._settings) for run in self._recorder.live.all()])

    async def ReadHistory(  # noqa: N802
        self, request: ReadHistoryRequest, context: ServicerContext[ReadHistoryRequest, ReadHistoryResponse]
    ) -> None:
        try:
            if self._recorder.live.get(request.run_id) is None:
                raise errors.UnknownRunError(
                    f"run {errors.shortened(request.run_id)} is not in this store; ListRuns names those that are"
                )
            # A request without after_step reads as 0, and a run may end before its first step.
            after = after_step(request.after_step) if request.after_step else START
            while page := await self._recorder.history(request.run_id, after, HISTORY_PAGE_ITEMS):
                for stored in page:
                    await context.write(ReadHistoryResponse(attempt=stored.position.attempt, item=stored.item))
                after = page[-1].position
            if self._recorder.live.get(request.run_id) is None:
                raise errors.UnknownRunError(
                    f"run {errors.shortened(request.run_id)} was deleted from the store while it was read: what came "
                    "is not all of it"
                )
        except errors.ServiceError as error:
            await context.abort(*_status(error), ANSWERED)

    def _check_size(self, request: RegisterRunRequest) -> None:
        limit = "max_request_bytes"
        if (size := request.ByteSize()) > self._settings.max_request_bytes:
            self._instruments.limit_hits.labels(limit).inc()
            raise errors.over_limit(f"{size} bytes", self._settings.max_request_bytes, limit)

    def _opened(self, first: list[ReportRequest]) -> Attempt:
        if not first and not self.serving:
            raise errors.StoppingError("the service is stopping; connect again")
        if not first or first[0].WhichOneof("kind") != "open":
            raise errors.RequestOrderError("the first request of a stream must be `open`; say whose items follow")
        return self._recorder.open(first[0].open.run_id, first[0].open.attempt)

    async def _store_all(
        self, attempt: Attempt, arrivals: Arrivals, context: ServicerContext[ReportRequest, ReportResponse]
    ) -> None:
        """Store what arrives. While one batch is being written, the next one waits already to be."""
        storing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        storing.set_result(None)
        try:
            while batch := await arrivals.next():
                brought = self._read(batch)
                before = storing
                storing = asyncio.create_task(self._store(attempt, brought, arrivals, before, context))
                storing.add_done_callback(arrivals.end_if_failed)
                problem = brought.problem
                # Not kept while more is waited for: what comes is large, and streams many.
                del batch, brought
                await before
                if problem is not None:
                    # Of what came behind it, nothing is stored.
                    raise problem
            await storing
        except errors.ServiceError:
            # What came before a request that cannot be read, or is out of turn, is answered.
            await storing
            raise
        finally:
            storing.cancel()
            await asyncio.gather(storing, return_exceptions=True)

    async def _store(
        self,
        attempt: Attempt,
        brought: _Brought,
        arrivals: Arrivals,
        before: asyncio.Future[None],
        context: ServicerContext[ReportRequest, ReportResponse],
    ) -> None:
        """Store what a batch brings, then answer.

        Args:
            before: done when what came before is stored and answered. If that failed, nothing of this is answered.
        """
        items, heartbeats = brought.items, brought.heartbeats
        outcomes: list[Outcome] = []
        if items or heartbeats:
            outcomes = await self._recorder.record(attempt, items, heartbeats[-1] if heartbeats else None)
        self._instruments.heartbeats.inc(len(heartbeats))
        # Not after the answers: a sender that does not read them would keep the room from all others.
        del brought, items, heartbeats
        arrivals.stored()
        await before
        for response in answers(outcomes):
            await context.write(response)

    def _read(self, batch: list[ReportRequest]) -> _Brought:
        """Return what the requests bring, up to one that is out of turn."""
        items: list[Received] = []
        heartbeats: list[Heartbeat] = []
        for request in batch:
            try:
                items += received_in(request, self._settings.max_batch_items)
            except errors.ServiceError as error:
                return _Brought(items, heartbeats, error)
            if request.HasField("heartbeat"):
                heartbeats.append(request.heartbeat)
        return _Brought(items, heartbeats)


def answers(outcomes: Iterable[Outcome]) -> Iterable[ReportResponse]:
    """Return acknowledgements and rejections in the order of the items; neighbours are acknowledged together."""
    stored = 0
    for outcome in outcomes:
        if outcome.rejected is None:
            stored = max(stored, outcome.sequence)
            continue
        if stored:
            yield ReportResponse(acknowledgement=Acknowledgement(sequence=stored))
        stored = 0
        yield ReportResponse(rejection=Rejection(sequence=outcome.sequence, reason=outcome.rejected))
    if stored:
        yield ReportResponse(acknowledgement=Acknowledgement(sequence=stored))


def _check_protocol(version: int) -> None:
    if version != PROTOCOL_VERSION:
        older = "sender" if version < PROTOCOL_VERSION else "service"
        raise errors.ProtocolVersionError(
            f"the sender speaks protocol version {version}, the service {PROTOCOL_VERSION}; "
            f"upgrade sparsity-monitor on the side of the {older}"
        )


def _status(error: errors.ServiceError) -> tuple[grpc.StatusCode, str]:
    code = next((code for kind, code in _STATUS if isinstance(error, kind)), grpc.StatusCode.INTERNAL)
    return code, str(error)


def _summary(run: LiveRun, now: float, settings: ServiceSettings) -> RunSummary:
    state = run.state(now, settings)
    return RunSummary(
        registration=run.registration,
        state=f"STATE_{_KNOWN_TO_ALL.get(state, state).name}",
        exact_state=f"STATE_{state.name}",
        reason=run.finish.reason if run.finish else "",
        last_step=run.step,
        last_observed_at=run.latest.observation.observed_at if run.latest else 0,
        observations=run.observations,
        thinned=_thinned(run),
    )


def _thinned(run: LiveRun) -> Thinned | None:
    if (found := run.thinned) is None:
        return None
    return Thinned(every=found.every, until_step=found.until_step, removed=found.removed)
