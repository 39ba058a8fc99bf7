"""One process, one loop: gRPC ingest and HTTP together, from start to an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass

import grpc
import uvicorn
from fastapi import FastAPI
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from monitor.service.access.calls import CallsAtTheGate
from monitor.service.access.gate import Gate
from monitor.service.access.network import check_network
from monitor.service.access.renewal import ServedCertificates
from monitor.service.access.tls import certificates_of
from monitor.service.care.retention import Retention
from monitor.service.errors import AddressUnavailableError
from monitor.service.ingest.calls import Ingest
from monitor.service.ingest.readable import ReadableRequests
from monitor.service.ingest.standing_by import SERVICE_NAME, CallsStandingBy, tell_health, watching
from monitor.service.metrics.exposition import Exposition
from monitor.service.metrics.instruments import Instruments
from monitor.service.metrics.runs import LiveMetrics
from monitor.service.recording.recorder import Recorder
from monitor.service.settings import ServiceSettings, hide_password, split_address
from monitor.service.storage.identity import store_identity
from monitor.service.storage.opening import file_of
from monitor.service.storage.sqlite_file.reserve import make_room
from monitor.service.web.app import build_app
from monitor.wire.monitor_pb2_grpc import add_MonitorServiceServicer_to_server

logger = logging.getLogger(__name__)

# The service answers a request that is too large with what to do about it; gRPC refuses only much larger ones.
_TRANSPORT_FACTOR = 4

_AHEAD_BYTES = 512 * 1024

_ALL_INTERFACES = ("0.0.0.0", "::")


@dataclass(frozen=True)
class Listening:
    """Where a service can be reached; ports that were given as 0 are the real ones."""

    grpc_address: str
    http_address: str
    store_url: str

    def __str__(self) -> str:
        return f"listening grpc={self.grpc_address} http={self.http_address} store={self.store_url}"


def run(settings: ServiceSettings, announce: Callable[[Listening], None]) -> None:
    """Serve until SIGTERM or SIGINT, then end in order. A second signal ends at once.

    Raises:
        AddressUnavailableError: an address cannot be bound.
        StoreError: the store cannot be opened.
    """

    async def until_signal() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def stop_once() -> None:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
            stop.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop_once)
        async with serving(settings) as listening:
            announce(listening)
            await stop.wait()
            logger.info("stopping")

    asyncio.run(until_signal())


@contextlib.asynccontextmanager
async def serving(settings: ServiceSettings) -> AsyncIterator[Listening]:
    """Serve while the context is open.

    Leaving it ends open streams after what they are storing, refuses new ones, and closes the store.
    """
    instruments = Instruments()
    files = certificates_of(settings)
    certificates = None if files is None else ServedCertificates(files, instruments.certificate_expires)
    if (path := file_of(settings.store_url)) is not None and settings.removes_runs:
        await asyncio.to_thread(make_room, path)
    recorder = Recorder(settings, instruments)
    try:
        if (identity := await asyncio.to_thread(store_identity, settings.store_url)) is not None:
            instruments.store_is(identity, standby=settings.standby)
        gate = Gate(recorder.tokens, settings.tokens_directory)
        await gate.open()
        check_network(settings, closed=gate.closed or settings.client_ca is not None)
        ingest, checks = Ingest(settings, recorder, instruments), health.aio.HealthServicer()
        async with contextlib.AsyncExitStack() as stack:
            http_socket = stack.enter_context(_bound(settings.http_address))
            http_address = _address_of(http_socket)
            service_url = settings.service_url or _browsed_at(http_address, "http" if certificates is None else "https")
            exposition = Exposition(instruments.registry, LiveMetrics(recorder.live, settings, service_url))
            ours = _grpc_server(settings, recorder, ingest, gate, checks=checks, certificates=certificates)
            grpc_address = await stack.enter_async_context(ours)
            app = build_app(settings, recorder, exposition, lambda: ingest.serving, gate)
            await stack.enter_async_context(_http_server(app, http_socket, settings.shutdown_seconds, certificates))
            # Runs first at the end: /readyz answers 503, and streams end.
            stack.callback(ingest.stop)
            if not recorder.stands_by:
                await recorder.announce(grpc_address, http_address)
            await stack.enter_async_context(gate.watching(instruments.background_errors.labels("tokens").inc))
            if certificates is not None:
                await stack.enter_async_context(
                    certificates.watching(instruments.background_errors.labels("certificates").inc)
                )
            await stack.enter_async_context(Retention(settings, recorder, instruments).running())
            if settings.standby:
                await stack.enter_async_context(
                    watching(recorder, checks, instruments.background_errors.labels("standby").inc)
                )
            yield Listening(grpc_address, http_address, hide_password(settings.store_url))
    finally:
        await recorder.close()


@contextlib.asynccontextmanager
async def _grpc_server(
    settings: ServiceSettings,
    recorder: Recorder,
    ingest: Ingest,
    gate: Gate,
    *,
    checks: health.aio.HealthServicer,
    certificates: ServedCertificates | None,
) -> AsyncIterator[str]:
    # Nothing is parsed of who is not let in.
    interceptors = [
        CallsAtTheGate(gate, reflection=settings.reflection),
        CallsStandingBy(recorder),
        ReadableRequests(),
    ]
    server = grpc.aio.server(interceptors=interceptors, options=_grpc_options(settings))
    add_MonitorServiceServicer_to_server(ingest, server)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    if settings.reflection or not gate.closed:
        reflection.enable_server_reflection((SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    host, port = split_address(settings.grpc_address)
    # The server asks it for new ones while it listens, and does not keep it alive.
    credentials = None if certificates is None else certificates.for_grpc()
    try:
        if credentials is None:
            port = server.add_insecure_port(_joined(host, port))
        else:
            port = server.add_secure_port(_joined(host, port), credentials)
    except RuntimeError as error:
        raise _unavailable(settings.grpc_address, "--grpc-address", str(error)) from error
    await server.start()
    await tell_health(recorder, checks)
    try:
        yield _joined(host, port)
    finally:
        await checks.enter_graceful_shutdown()
        await server.stop(settings.shutdown_seconds)


def _grpc_options(settings: ServiceSettings) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", _TRANSPORT_FACTOR * settings.max_request_bytes),
        # Of each stream that sends more than is taken, so much waits here and the rest at its sender.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", _AHEAD_BYTES),
        # Otherwise a second service could bind the same port, and receive half of the streams.
        ("grpc.so_reuseport", 0),
        # Detects dead senders, and keeps idle streams open through proxies and NAT.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ]


class _HttpServer(uvicorn.Server):
    """uvicorn in a loop that is not its own: it leaves signals alone, and sets `up` when it has started."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()


@contextlib.asynccontextmanager
async def _http_server(
    app: FastAPI, bound: socket.socket, shutdown_seconds: float, certificates: ServedCertificates | None
) -> AsyncIterator[None]:
    config = uvicorn.Config(
        app,
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=max(1, round(shutdown_seconds)),
        **({} if certificates is None else certificates.files.for_uvicorn()),
    )
    config.load()
    if certificates is not None and config.ssl is not None:
        certificates.serve_with(config.ssl)
    server = _HttpServer(config)
    task = asyncio.create_task(server.serve([bound]))
    await server.up.wait()
    try:
        yield
    finally:
        server.should_exit = True
        await task


@contextlib.contextmanager
def _bound(address: str) -> Iterator[socket.socket]:
    host, port = split_address(address)
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        bound = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise _unavailable(address, "--http-address", error.strerror or str(error)) from error
    with bound:
        # Of those that it accepts, too: asyncio leaves sockets that others have made as they are, and then a second
        # piece of an answer waits for the first one's acknowledgement, which the other end delays by 40 ms.
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield bound


def _unavailable(address: str, option: str, reason: str) -> AddressUnavailableError:
    return AddressUnavailableError(
        f"cannot listen on {address}: {reason}. Stop what listens there, choose another address with {option}, "
        "or port 0 to take a free one"
    )


def _address_of(bound: socket.socket) -> str:
    host, port = bound.getsockname()[:2]
    return _joined(host, port)


def _browsed_at(http_address: str, scheme: str) -> str:
    """Return the URL of the pages for a browser on this machine."""
    host, port = split_address(http_address)
    return f"{scheme}://{_joined('localhost' if host in _ALL_INTERFACES else host, port)}"


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
