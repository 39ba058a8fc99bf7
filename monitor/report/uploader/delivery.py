"""Delivery: carries the items of one attempt from the spool to the service, over one connection."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TypeAlias

import grpc

from monitor.errors import SpoolError
from monitor.report.log.seldom import Seldom
from monitor.report.processes.locks import TrainerWatch
from monitor.report.spool.attempt import AttemptKey, SpooledAttempt
from monitor.report.spool.items import Spool
from monitor.report.spool.on_the_way import OnTheWay, remove_records
from monitor.report.spool.places import goes_on_elsewhere
from monitor.report.uploader.packing import Packing
from monitor.terminal import printable
from monitor.wire import PROTOCOL_VERSION, monitor_pb2_grpc
from monitor.wire import monitor_pb2 as pb

HEARTBEAT_SECONDS = 5.0

ReportStream: TypeAlias = "grpc.aio.StreamStreamCall[pb.ReportRequest, pb.ReportResponse]"
Metadata: TypeAlias = tuple[tuple[str, str], ...]

_BATCH = 64
_REGISTER_TIMEOUT_SECONDS = 10.0
# How long a service may leave what it was sent unacknowledged. One that is busy takes a second.
_SILENCE_SECONDS = 60.0


class Delivery:
    """Delivers one attempt: registers it, streams its items, removes what is acknowledged.

    Ends when everything that was observed is acknowledged and the attempt is over: the training process finished it or
    is gone. With `follow=False` it does not wait for a training process that is alive.

    Args:
        on_the_way: what was sent of the attempt so far, over whichever connection.
        tell: logs which items are refused.
    """

    def __init__(
        self,
        spool: Spool,
        key: AttemptKey,
        watch: TrainerWatch,
        wakeup: asyncio.Event,
        on_the_way: OnTheWay,
        *,
        follow: bool,
        tell: Seldom,
    ) -> None:
        self._spool = spool
        self._key = key
        # The attempt's number at the service; see `_register`.
        self._number = key.attempt
        self._watch = watch
        self._wakeup = wakeup
        self._on_the_way = on_the_way
        self._follow = follow
        self._sent = 0
        self._acknowledged = 0
        # Highest sequence number that the service had when it accepted the attempt.
        self._known = 0
        # Whether the service took anything over this connection.
        self.progressed = False
        # When the service has to have acknowledged something; None while nothing is unacknowledged.
        self._deadline = asyncio.timeout(None)
        self._tell_of_refusal = tell

    async def run(self, stub: monitor_pb2_grpc.MonitorServiceStub, metadata: Metadata = ()) -> None:
        """Deliver over one connection.

        Args:
            metadata: what goes with each call.

        Raises:
            grpc.aio.AioRpcError: the connection broke or the service refused.
            ConnectionResetError: the service ended the stream.
            TimeoutError: the service acknowledges nothing.
        """
        response = await self._register(stub, metadata)
        # No acknowledgement of what is here: where the attempt is kept elsewhere now, that came from there. The service
        # knows what it has, and takes it for delivered.
        self._known = response.last_sequence
        self._begin_sending()
        self._spool.set_registered(self._key)
        packing = Packing.of(response)
        self._set_aside_oversized(packing)
        stream = stub.Report(metadata=metadata)
        receiver = asyncio.create_task(self._receive(stream))
        receiver.add_done_callback(_take_note)
        try:
            async with self._deadline:
                await self._send(stream, receiver, packing)
                self._wait_for_answer()
                await stream.done_writing()
                await receiver
        except asyncio.InvalidStateError as error:
            # gRPC raises it on a write after the stream ended; the receiver raises the reason.
            await receiver
            raise ConnectionResetError("the service ended the stream") from error
        finally:
            receiver.cancel()
            stream.cancel()

    async def _register(self, stub: monitor_pb2_grpc.MonitorServiceStub, metadata: Metadata) -> pb.RegisterRunResponse:
        """Register the attempt, under the next free number where another resume of the run has taken its own.

        That happens when a checkpoint is resumed a second time and the spool of the first was lost with its machine.
        """
        registration = pb.Registration.FromString(self._spool.attempt(self._key).registration)
        while True:
            request = pb.RegisterRunRequest(
                protocol_version=PROTOCOL_VERSION, registration=registration, sent_at=time.time()
            )
            self._number = registration.attempt
            try:
                response: pb.RegisterRunResponse = await stub.RegisterRun(
                    request, timeout=_REGISTER_TIMEOUT_SECONDS, wait_for_ready=False, metadata=metadata
                )
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.ALREADY_EXISTS or _is_first_start(registration):
                    raise
                registration.attempt += 1
            else:
                return response

    def _begin_sending(self) -> None:
        arrived = self._on_the_way.up_to(self._known)
        try:
            self._on_the_way.begin_again(*self._spool.begin_sending(self._key, self._known, arrived))
        finally:
            with suppress(SpoolError):
                remove_records(self._spool.directory, self._spool.records())

    def _set_aside_oversized(self, packing: Packing) -> None:
        # gRPC would end the stream at such an item, each time anew, and nothing after it would arrive.
        for sequence, size in self._spool.larger_than(self._key, packing.max_item_bytes):
            most = packing.max_bytes
            reason = f"it has {size} bytes, and the service takes at most {most}, its --max-request-bytes"
            self._tell_of_refusal("item %d of %s is never sent: %s", sequence, self._key, reason)
            self._spool.reject(self._key, sequence, reason, answered=False)

    async def _send(self, stream: ReportStream, receiver: asyncio.Task[None], packing: Packing) -> None:
        await stream.write(pb.ReportRequest(open=pb.Open(run_id=self._key.run_id, attempt=self._number)))
        last_heartbeat = 0.0
        while True:
            # Cleared before the spool is read: an item that comes meanwhile sets it again.
            self._wakeup.clear()
            over = self._is_over()
            if time.monotonic() - last_heartbeat >= HEARTBEAT_SECONDS:
                last_heartbeat = time.monotonic()
                await self._send_heartbeat(stream)
            if await self._send_unsent(stream, packing):
                continue
            if over and self._acknowledged >= self._sent:
                # The last heartbeat is the one that stays: nothing unsent, and how much was dropped.
                await self._send_heartbeat(stream)
                return
            await self._wait(receiver, last_heartbeat + HEARTBEAT_SECONDS - time.monotonic())

    def _is_over(self) -> bool:
        # Read the attempt last: between reading it as unfinished and seeing its process dead, it may have finished.
        trains = self._trains()
        attempt = self._spool.attempt(self._key)
        if not attempt.finished and not trains:
            if not self._left(attempt):
                self._append_death(attempt)
            return True
        return attempt.finished or not self._follow

    def _left(self, attempt: SpooledAttempt) -> bool:
        """Return whether the attempt went on elsewhere when the directory broke, and its end is told from there."""
        return self._known > attempt.last_sequence or goes_on_elsewhere(self._spool.directory, self._key)

    def _trains(self) -> bool:
        """Return whether the attempt has a training process, and not a later one."""
        return self._watch.is_alive() and self._spool.newest() == self._key

    def _append_death(self, attempt: SpooledAttempt) -> None:
        sequence = attempt.last_sequence + 1
        item = pb.Item(sequence=sequence, finish=self._watch.death().message(step=0))
        self._spool.append(self._key, [(sequence, item.SerializeToString())], finished=True)

    async def _send_heartbeat(self, stream: ReportStream) -> None:
        attempt = self._spool.attempt(self._key)
        heartbeat = pb.Heartbeat(sent_at=time.time(), unsent_items=attempt.unsent, dropped_items=attempt.dropped)
        heartbeat.training_ended = not self._trains()
        await stream.write(pb.ReportRequest(heartbeat=heartbeat))

    async def _send_unsent(self, stream: ReportStream, packing: Packing) -> bool:
        rows = self._spool.unsent(self._key, self._sent, _BATCH)
        for numbers, request in packing.requests(rows):
            if self._acknowledged >= self._sent:
                self._wait_for_answer()
            # Before it is: the answer to the one before may come meanwhile, and must not end the waiting.
            self._sent = numbers[-1]
            self._on_the_way.send(numbers)
            await stream.write(request)
        return bool(rows)

    async def _wait(self, receiver: asyncio.Task[None], seconds: float) -> None:
        """Wait for a new item, an acknowledgement, the end of the stream, or the next heartbeat's time."""
        woken = asyncio.create_task(self._wakeup.wait())
        try:
            await asyncio.wait({woken, receiver}, timeout=max(seconds, 0), return_when=asyncio.FIRST_COMPLETED)
        finally:
            woken.cancel()
        if receiver.done():
            receiver.result()
            raise ConnectionResetError("the service ended the stream")

    async def _receive(self, stream: ReportStream) -> None:
        async for response in stream:
            match response.WhichOneof("kind"):
                case "acknowledgement":
                    sequence = response.acknowledgement.sequence
                    self._spool.acknowledge(self._key, sequence, self._on_the_way.up_to(sequence))
                    self._on_the_way.arrive(sequence)
                    self._take_answer(sequence)
                case "rejection":
                    sequence, reason = response.rejection.sequence, printable(response.rejection.reason)
                    self._tell_of_refusal("the service refuses item %d of %s: %s", sequence, self._key, reason)
                    self._on_the_way.reject(sequence)
                    self._spool.reject(self._key, sequence, reason)
                    self._take_answer(sequence)
            self._wakeup.set()

    def _take_answer(self, sequence: int) -> None:
        self.progressed = True
        self._acknowledged = max(self._acknowledged, sequence)
        if self._deadline.expired():
            return
        if self._acknowledged < self._sent:
            self._wait_for_answer()
        else:
            self._deadline.reschedule(None)

    def _wait_for_answer(self) -> None:
        self._deadline.reschedule(asyncio.get_running_loop().time() + _SILENCE_SECONDS)


def _take_note(receiver: asyncio.Task[None]) -> None:
    """Keep asyncio from logging what nobody asked a receiver for: where sending failed first, that says why."""
    if not receiver.cancelled():
        receiver.exception()


def _is_first_start(registration: pb.Registration) -> bool:
    """Return whether the run begins with this start; where it finds its number taken, another run has the same id."""
    begins_at = registration.parent.step if registration.HasField("parent") else 0
    return registration.resumed_from_step <= begins_at
