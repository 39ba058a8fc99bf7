"""A real service for tests: in a thread of this process, or as the command in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
import queue
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import CoroutineType
from typing import Any

import httpx

from monitor.service.server import Listening, serving
from monitor.service.settings import ServiceSettings
from monitor.wire import monitor_pb2 as pb
from monitor.wire.channel import open_channel
from monitor.wire.monitor_pb2_grpc import MonitorServiceStub
from tests.forked import Nursery, Started
from tests.service.messages import register_request, stream_of

COMMAND = str(Path(sys.executable).with_name("sparsity-monitor"))
# A service gives what is open five seconds, over gRPC and over HTTP.
_END_SECONDS = 60.0
_LISTENING = re.compile(r"listening grpc=(\S+) http=(\S+) store=(\S+)")


class Client:
    """Talks to a service as senders, Prometheus and browsers do."""

    def __init__(self, listening: Listening) -> None:
        self.listening = listening
        self.channel = open_channel(listening.grpc_address)
        self.stub = MonitorServiceStub(self.channel)
        # Reading the certificates that plain HTTP has no use for takes longer than most tests.
        self.http = httpx.Client(base_url=f"http://{listening.http_address}", timeout=60, trust_env=False, verify=False)

    def close(self) -> None:
        self.channel.close()
        self.http.close()

    def register(self, registration: pb.Registration) -> pb.RegisterRunResponse:
        response: pb.RegisterRunResponse = self.stub.RegisterRun(register_request(registration), timeout=60)
        return response

    def report(self, requests: Iterable[pb.ReportRequest]) -> list[pb.ReportResponse]:
        """Send a whole stream, and return all answers."""
        return list(self.stub.Report(iter(requests), timeout=60))

    def send(self, run_id: str, items: Iterable[pb.Item], attempt: int = 1) -> list[pb.ReportResponse]:
        return self.report(stream_of(run_id, items, attempt))

    def history(self, run_id: str, after_step: int = 0) -> list[pb.ReadHistoryResponse]:
        return list(self.stub.ReadHistory(pb.ReadHistoryRequest(run_id=run_id, after_step=after_step), timeout=60))

    def run(self, run_id: str) -> pb.RunSummary:
        runs: Iterable[pb.RunSummary] = self.stub.ListRuns(pb.ListRunsRequest(), timeout=60).runs
        return next(run for run in runs if run.registration.run_id == run_id)

    def is_over(self, run_id: str) -> bool:
        """Whether the run has finished or failed, and so all that it reported is here."""
        over = (pb.RunSummary.STATE_FINISHED, pb.RunSummary.STATE_FAILED)
        runs: Iterable[pb.RunSummary] = self.stub.ListRuns(pb.ListRunsRequest(), timeout=60).runs
        return any(run.registration.run_id == run_id and run.state in over for run in runs)

    def metric(self, name: str, **labels: str) -> float | None:
        """The value of the series of this name with these labels, None if there is none."""
        values = [
            float(line.rsplit(" ", 1)[1])
            for line in self.http.get("/metrics").text.splitlines()
            if re.match(rf"sparsity_monitor_{name}[{{ ]", line)
            and all(f'{key}="{value}"' in line for key, value in labels.items())
        ]
        assert len(values) <= 1, f"{name} {labels} is ambiguous"
        return values[0] if values else None


class OpenStream:
    """A stream that stays open: requests go in and answers come out one at a time."""

    def __init__(self, client: Client) -> None:
        self._requests: queue.SimpleQueue[pb.ReportRequest | None] = queue.SimpleQueue()
        self._call = client.stub.Report(iter(self._requests.get, None))

    def send(self, *requests: pb.ReportRequest) -> None:
        for request in requests:
            self._requests.put(request)

    def answer(self) -> pb.ReportResponse:
        """Wait for the next answer; raises grpc.RpcError when the stream broke."""
        response: pb.ReportResponse = next(self._call)
        return response

    def exchange(self, request: pb.ReportRequest) -> pb.ReportResponse:
        """Send one request, and wait for its answer."""
        self.send(request)
        return self.answer()

    def end(self) -> list[pb.ReportResponse]:
        """Send no more, and return the answers that are left."""
        self._requests.put(None)
        return list(self._call)

    def cancel(self) -> None:
        self._requests.put(None)
        self._call.cancel()


@contextlib.contextmanager
def service_in_thread(store: Path | str, **settings: Any) -> Iterator[Client]:
    """Run a service on free ports for as long as the context is open."""
    ready: Future[tuple[Listening, asyncio.Event]] = Future()
    loop = asyncio.new_event_loop()

    def serve() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(_serve(settings_for(store, **settings), ready))

    # One that hangs is told of, and keeps nobody from ending.
    thread = threading.Thread(target=serve, name="service", daemon=True)
    thread.start()
    try:
        listening, stop = ready.result(timeout=60)
        client = Client(listening)
        try:
            yield client
        finally:
            client.close()
            loop.call_soon_threadsafe(stop.set)
    finally:
        thread.join(timeout=_END_SECONDS)
        assert not thread.is_alive(), f"the service did not end within {_END_SECONDS:g} seconds:\n{_stacks()}"


def _stacks() -> str:
    """What all threads do, and where all coroutines wait: stacks of tasks end at the first context manager."""
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        threads = file.read()
    # What is frozen is in no list of objects.
    gc.unfreeze()
    # By its type, not by `isinstance`, which asks the object itself, and some libraries have one that does a lot then.
    coroutines = [each for each in gc.get_objects() if type(each) is CoroutineType]
    frames = [each.cr_frame for each in coroutines if each.cr_suspended]
    return "\n".join([threads, "Waiting:", *(f"  {frame.f_code.co_filename}:{frame.f_lineno}" for frame in frames)])


def settings_for(store: Path | str, **settings: Any) -> ServiceSettings:
    url = f"sqlite:///{store}" if isinstance(store, Path) else store
    addresses = {"grpc_address": "127.0.0.1:0", "http_address": "127.0.0.1:0"}
    return ServiceSettings(store_url=url, **{**addresses, **settings})


async def _serve(settings: ServiceSettings, ready: Future[tuple[Listening, asyncio.Event]]) -> None:
    stop = asyncio.Event()
    try:
        async with serving(settings) as listening:
            ready.set_result((listening, stop))
            await stop.wait()
    except Exception as error:
        if ready.done():
            raise
        ready.set_exception(error)


def serving_of(store: Path | str, *options: str) -> list[str]:
    """The arguments with which the command serves a store on free ports."""
    url = f"sqlite:///{store}" if isinstance(store, Path) else store
    return ["serve", "--grpc-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0", "--store-url", url, *options]


class ServiceProcess:
    """`sparsity-monitor serve` in a process of its own: the installed program, or forked in a nursery."""

    def __init__(
        self, store: Path | str, *options: str, program: str = COMMAND, nursery: Nursery | None = None, **popen: Any
    ) -> None:
        arguments = serving_of(store, *options)
        self.process: Started | subprocess.Popen[str]
        if nursery is not None:
            self.process = nursery.start(arguments, **popen)
        else:
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            self.process = subprocess.Popen([program, *arguments], **pipes, **popen)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        match = _LISTENING.fullmatch(line.strip())
        if match is None:
            raise AssertionError(f"the service did not start: {line!r} {self.process.communicate()}")
        self.client = Client(Listening(*match.groups()))

    def signal(self, number: int) -> int:
        """Send a signal, and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(timeout=60)

    def close(self) -> str:
        """End it in whatever state it is, and return what it wrote to stderr."""
        self.client.close()
        if self.process.poll() is None:
            self.process.kill()
        _stdout, stderr = self.process.communicate(timeout=60)
        return str(stderr)
