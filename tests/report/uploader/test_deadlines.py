"""What an uploader is up against that answers nothing, and that it ends all the same."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import grpc
import pytest

from monitor.report.processes.exit_status import EXIT_NOT_DELIVERED
from monitor.report.processes.locks import UPLOADER_LOCK
from monitor.report.push import push
from monitor.report.reporter import Reporter
from monitor.report.spool.items import Spool
from monitor.report.uploader import delivery
from monitor.report.uploader.tries import Uploader
from monitor.wire.monitor_pb2 import RegisterRunRequest, RegisterRunResponse, ReportRequest, ReportResponse
from monitor.wire.monitor_pb2_grpc import MonitorServiceServicer, add_MonitorServiceServicer_to_server
from tests.eventually import eventually
from tests.report.attempts import NOWHERE, ObservedModel, report_some, spooled, steps
from tests.service.running import Client


class _Silent(MonitorServiceServicer):
    """Takes a run, and all that is sent of it, and acknowledges nothing."""

    def RegisterRun(  # noqa: N802
        self, request: RegisterRunRequest, context: grpc.ServicerContext
    ) -> RegisterRunResponse:
        return RegisterRunResponse(protocol_version=request.protocol_version, max_request_bytes=1 << 20)

    def Report(  # noqa: N802
        self, requests: Iterator[ReportRequest], context: grpc.ServicerContext
    ) -> Iterator[ReportResponse]:
        for _ in requests:
            yield from ()


@pytest.fixture
def silent() -> Iterator[str]:
    with ThreadPoolExecutor(4) as threads:
        server = grpc.server(threads)
        add_MonitorServiceServicer_to_server(_Silent(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"127.0.0.1:{port}"
        server.stop(None).wait()


class _Resetting:
    """Listens, and breaks each connection at once."""

    def __init__(self) -> None:
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._break)
        self._thread.start()

    def _break(self) -> None:
        # Until it is shut down.
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()


@pytest.fixture
def resetting() -> Iterator[_Resetting]:
    with closing(_Resetting()) as listener:
        yield listener


@pytest.fixture
def left(observed: ObservedModel, directory: Path) -> Reporter:
    """What a training left behind that has ended, and of which nothing was delivered."""
    reporter = Reporter(observed.registration(), directory, None)
    report_some(reporter, observed, 3)
    reporter.finish(3)
    reporter.close(timeout=0)
    return reporter


def test_a_service_that_never_acknowledges_is_given_up_and_nothing_is_lost(
    left: Reporter, silent: str, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "_SILENCE_SECONDS", 0.2)
    (problem,) = asyncio.run(Uploader(left.directory, silent, linger_seconds=0.5).run())
    assert f"the service at {silent} takes connections and does not acknowledge what it is sent" in problem
    assert spooled(left).problem in problem
    assert len([*left.directory.iterdir()]) == 4, "spool, two locks, what the last connection sent"
    assert push(left.directory, client.listening.grpc_address, patience_seconds=30) == 4
    assert steps(client, left.key.run_id) == [1, 2, 3]
    assert len([*left.directory.iterdir()]) == 3


def test_an_uploader_that_is_stuck_does_not_keep_the_next_one_for_ever(left: Reporter) -> None:
    stuck = "import fcntl, sys; f = open(sys.argv[1], 'r+'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); input()"
    lock = left.directory / UPLOADER_LOCK
    lock.write_text("process 17 on a host")
    command = [sys.executable, "-c", stuck, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        (problem,) = asyncio.run(Uploader(left.directory, NOWHERE, linger_seconds=0.0).run())
        process.kill()
    assert f"the uploader of {left.directory} that began before this one (process 17 on a host) does not" in problem
    assert spooled(left).unsent == 4


def test_pauses_are_chosen_at_random_up_to_a_bound_that_doubles_and_the_trouble_is_logged_once(
    left: Reporter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bounds: list[tuple[float, float]] = []
    monkeypatch.setattr("monitor.report.uploader.tries.random.uniform", lambda *bound: bounds.append(bound) or 0.0)
    monkeypatch.setattr(Uploader, "_has_given_up", lambda _, __: len(bounds) == 8)
    asyncio.run(Uploader(left.directory, NOWHERE).run())
    assert bounds == [(0, bound) for bound in (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 15.0)]
    assert len([message for message in caplog.messages if "cannot reach the service" in message]) == 1


def test_each_try_dials_however_many_failed_before(
    left: Reporter, resetting: _Resetting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gRPC by itself would soon pause for two minutes, and a service that is back would wait for as long."""
    tries = iter(range(10))
    monkeypatch.setattr("monitor.report.uploader.tries.random.uniform", lambda *_: 0.0)
    monkeypatch.setattr(Uploader, "_has_given_up", lambda _, __: next(tries, None) is None)
    asyncio.run(Uploader(left.directory, resetting.address).run())
    assert resetting.connections == 11


def test_a_training_that_is_over_is_given_up_although_its_process_lives_on(
    left: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a notebook, or a search with many trials, each of which would leave an uploader for all that time."""
    deadlines: list[float] = []
    with closing(Spool(left.directory, max_bytes=None)) as spool:

        def has_given_up(_: Uploader, at: float) -> bool:
            deadlines.append(at)
            spool._change("UPDATE attempts SET finished = ?", (len(deadlines) >= 4,))
            return len(deadlines) == 8

        monkeypatch.setattr("monitor.report.uploader.tries.random.uniform", lambda *_: 0.0)
        monkeypatch.setattr(Uploader, "_has_given_up", has_given_up)
        spool._change("UPDATE attempts SET finished = ?", (False,))
        asyncio.run(Uploader(left.directory, NOWHERE, parent=os.getppid(), last=left.key).run())
    assert len(set(deadlines[:4])) == 4, "a training that goes on is given up never"
    assert set(deadlines[4:]) == {deadlines[3]}


_SHORT = """
import sys
from monitor.report.uploader import __main__ as uploader

uploader._AFTER_SIGTERM_SECONDS = 0.2
sys.exit(uploader.main())
"""


def test_an_uploader_that_is_told_to_end_does_so_in_time_and_leaves_the_rest_in_the_spool(left: Reporter) -> None:
    key = left.key
    command = [sys.executable, "-c", _SHORT, str(left.directory), NOWHERE, str(os.getpid()), key.run_id, "1"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        eventually(lambda: spooled(left).problem != "")
        process.terminate()
        assert process.wait(60) == EXIT_NOT_DELIVERED
    assert spooled(left).unsent == 4


class _Broken:
    """A call over a connection that broke, as gRPC's is: who reads from it hears so even where he is cancelled."""

    async def write(self, _request: ReportRequest) -> None:
        # The receiver begins.
        await asyncio.sleep(0)
        raise _reset_by_peer()

    async def __aiter__(self) -> AsyncIterator[ReportResponse]:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise _reset_by_peer() from None
        yield

    def cancel(self) -> None:
        pass


def _reset_by_peer() -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), "reset by peer")


class _Stub:
    def __init__(self, _channel: grpc.aio.Channel) -> None:
        self.Report = lambda metadata: _Broken()

    async def RegisterRun(self, request: RegisterRunRequest, **_: object) -> RegisterRunResponse:  # noqa: N802
        return RegisterRunResponse(protocol_version=request.protocol_version, max_request_bytes=1 << 20)


def test_a_connection_that_breaks_in_both_directions_is_said_in_one_sentence(
    left: Reporter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("monitor.report.uploader.tries.MonitorServiceStub", _Stub)
    (problem,) = asyncio.run(Uploader(left.directory, NOWHERE, linger_seconds=0.0).run())
    gc.collect()
    assert problem.endswith(f"cannot reach the service at {NOWHERE}: reset by peer")
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []
