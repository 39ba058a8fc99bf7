"""What a service takes: observations per second, acknowledgements under load, and scrapes of many series meanwhile.

    python -m tests.benchmarks.service [--seconds 10] [--what load catch-up fleet scrapes open-runs memory]

Runs of a model with 36 layers (255 groups) report to a real service over gRPC. The load is made on the same cores.
"""

from __future__ import annotations

import argparse
import asyncio
import bisect
import math
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import httpx

from monitor.report.uploader.packing import Packing
from monitor.wire import monitor_pb2 as pb
from monitor.wire.channel import open_aio_channel, open_channel
from monitor.wire.monitor_pb2_grpc import MonitorServiceStub
from tests.service.messages import heartbeat, observation, opening, registration
from tests.service.running import COMMAND, Client, OpenStream, ServiceProcess

RUNS = 50
LAYERS = 36
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
OUTSIDE = ("embed_tokens", "norm", "lm_head")
CATCH_UP_ITEMS = 5000
FLEET_RUNS = 300
FLEET_ITEMS = 384
FLEET_CHANNELS = 8
BATCH_ITEMS = 200
ROUNDS = 20
OPEN_RUNS = 1000
HEARTBEAT_SECONDS = 5.0
SCRAPED_SERIES = (50_000, 116_000)

Start = Callable[[], AbstractContextManager[ServiceProcess]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each side is measured")
    parser.add_argument("--what", choices=SIDES, nargs="+", default=["load", "catch-up", "scrapes"])
    parser.add_argument("--besides", metavar="COMMAND", help="sparsity-monitor of another version, measured in turn")
    arguments = parser.parse_args()
    programs = [COMMAND] if arguments.besides is None else [arguments.besides, COMMAND]
    print(f"{os.cpu_count()} cores; one observation has {len(_serialized(1))} bytes\n")
    print("| side | result | service, µs of a core per observation |\n|---|---|---|")
    for what in arguments.what:
        for program in programs:
            if len(programs) > 1:
                _row(f"**{program}**", "")
            SIDES[what](partial(_service, program), arguments.seconds)


@contextmanager
def _service(program: str) -> Iterator[ServiceProcess]:
    with tempfile.TemporaryDirectory() as directory:
        service = ServiceProcess(Path(directory) / "store.db", program=program)
        try:
            yield service
        finally:
            service.close()


def _loads(start: Start, seconds: float) -> None:
    with start() as service:
        rate = _full_load(service, seconds)
        _half_load(service, seconds, rate / 2)


def _full_load(service: ServiceProcess, seconds: float) -> float:
    """Every run sends as fast as it is acknowledged. Returns observations per second."""
    runs = _register(service.client, RUNS)
    # Before the clock runs: what a load costs to make is not what it costs to take.
    rows = [(sequence, _serialized(sequence)) for sequence in range(1, ROUNDS * BATCH_ITEMS + 1)]
    memory, processor, started = _megabytes(service), _processor_seconds(service), time.perf_counter()

    def send(run: tuple[str, Packing]) -> int:
        for sent in range(0, len(rows), BATCH_ITEMS):
            if time.perf_counter() >= started + seconds:
                return sent
            _send(service.client, *run, rows[sent : sent + BATCH_ITEMS])
        return len(rows)

    with ThreadPoolExecutor(len(runs)) as pool:
        sent = sum(pool.map(send, runs.items()))
    rate = sent / (time.perf_counter() - started)
    _row(f"{RUNS} runs at once", f"{rate:,.0f} observations/s", (_processor_seconds(service) - processor) / sent)
    _row(f"resident memory before and after these {sent:,}", f"{memory:.0f} and {_megabytes(service):.0f} MB")
    return rate


def _send(client: Client, run_id: str, packing: Packing, rows: list[tuple[int, bytes]]) -> None:
    """Send items as an uploader does, and wait until all are acknowledged."""
    client.report([opening(run_id), *(request for _numbers, request in packing.requests(rows))])


def _half_load(service: ServiceProcess, seconds: float, rate: float) -> None:
    """Every run sends at its times, whether or not what it sent before is acknowledged, as uploaders do."""
    runs = _register(service.client, RUNS)
    processor = _processor_seconds(service)
    times = asyncio.run(_reported(service.client, runs, seconds, RUNS / rate))
    spent = (_processor_seconds(service) - processor) / len(times)
    _row(f"acknowledgement at {len(times) / seconds:,.0f} observations/s", _spread(times), spent)


async def _reported(client: Client, runs: dict[str, Packing], seconds: float, pause: float) -> list[float]:
    """Return how long after it was made each observation was acknowledged."""
    started = time.perf_counter()
    reporting = [
        _reported_by(client, run, packing, started + seconds, pause, first=started + number * pause / len(runs))
        for number, (run, packing) in enumerate(runs.items())
    ]
    return [each for some in await asyncio.gather(*reporting) for each in some]


async def _reported_by(
    client: Client, run: str, packing: Packing, until: float, pause: float, first: float
) -> list[float]:
    made = _times_between(first, until, pause)
    before = 10**6
    acknowledged: list[float] = []

    async def read(stream: Any) -> None:
        async for response in stream:
            now = time.perf_counter()
            acknowledged.extend(
                now - made[number] for number in range(len(acknowledged), response.acknowledgement.sequence - before)
            )

    address = client.listening.grpc_address
    async with open_aio_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        stream = MonitorServiceStub(channel).Report()
        reader = asyncio.create_task(read(stream))
        await stream.write(opening(run))
        sent = 0
        while sent < len(made):
            await asyncio.sleep(made[sent] - time.perf_counter())
            due = bisect.bisect(made, time.perf_counter())
            rows = [(number, _serialized(number)) for number in range(before + sent + 1, before + due + 1)]
            for _numbers, request in packing.requests(rows):
                await stream.write(request)
            sent = due
        await stream.done_writing()
        await reader
    return acknowledged


def _times_between(first: float, until: float, pause: float) -> list[float]:
    return [first + number * pause for number in range(math.ceil((until - first) / pause))]


def _catch_up(start: Start, _seconds_given: float) -> None:
    with start() as service:
        ((run, packing),) = _register(service.client, 1).items()
        rows = [(sequence, _serialized(sequence)) for sequence in range(1, CATCH_UP_ITEMS + 1)]
        processor = _processor_seconds(service)
        seconds = _seconds(lambda: _send(service.client, run, packing, rows))
        spent = (_processor_seconds(service) - processor) / len(rows)
        _row(f"one run catches up by {len(rows):,}", f"{len(rows) / seconds:,.0f} observations/s", spent)


def _fleet(start: Start, _seconds_given: float) -> None:
    """As after an outage: every run has a spool that is to be delivered."""
    with start() as service, ExitStack() as channels:
        address = service.client.listening.grpc_address
        options = [("grpc.use_local_subchannel_pool", 1)]
        stubs = [
            MonitorServiceStub(channels.enter_context(open_channel(address, options))) for _ in range(FLEET_CHANNELS)
        ]
        runs = _register(service.client, FLEET_RUNS)
        rows = [(sequence, _serialized(sequence)) for sequence in range(1, FLEET_ITEMS + 1)]

        def catch_up(number: int, run: str, packing: Packing) -> int:
            requests = (opening(run), *(request for _numbers, request in packing.requests(rows)))
            answers = stubs[number % len(stubs)].Report(iter(requests), timeout=600)
            return [answer.acknowledgement.sequence for answer in answers][-1]

        def all_catch_up() -> None:
            with ThreadPoolExecutor(FLEET_RUNS) as pool:
                assert set(pool.map(catch_up, range(FLEET_RUNS), runs, runs.values())) == {FLEET_ITEMS}

        processor = _processor_seconds(service)
        seconds, items = _seconds(all_catch_up), FLEET_RUNS * FLEET_ITEMS
        spent = (_processor_seconds(service) - processor) / items
        _row(f"{FLEET_RUNS} runs catch up by {FLEET_ITEMS} each", f"{items / seconds:,.0f} observations/s", spent)
        _row(
            "resident memory at most, and after them",
            f"{_megabytes(service, 'VmHWM'):.0f} and {_megabytes(service):.0f} MB",
        )


def _all_scrapes(start: Start, seconds: float) -> None:
    for series in SCRAPED_SERIES:
        with start() as service:
            _scrapes(service.client, series, seconds)


def _scrapes(client: Client, series: int, seconds: float) -> None:
    """Prometheus scrapes without a pause, while one run reports."""
    count = 0
    while _series(client) < series:
        run = f"scraped-{count}"
        client.register(_registration(run))
        client.send(run, [_observation(1)])
        count += 1
    stream = OpenStream(client)
    stream.send(opening("scraped-0"))
    _row("acknowledgement, no scrape", _spread(_acknowledgements(stream, 2, seconds)))
    with _Scraping(client) as scraping:
        acknowledged = _acknowledgements(stream, 10**6, seconds)
    stream.end()
    _row(f"scrape of {_series(client):,} series", _spread(scraping.times))
    _row("acknowledgement meanwhile", _spread(acknowledged))


def _open_runs(start: Start, seconds: float) -> None:
    """Runs that are connected, each for itself, and send heartbeats, and one of them that reports."""
    with start() as service, ThreadPoolExecutor(OPEN_RUNS) as pool, ExitStack() as channels:
        runs = _register(service.client, OPEN_RUNS)
        over = threading.Event()
        memory = _megabytes(service)

        def stay(number: int) -> None:
            address = service.client.listening.grpc_address
            channel = channels.enter_context(open_channel(address, [("grpc.use_local_subchannel_pool", 1)]))
            answers = MonitorServiceStub(channel).Report(_heartbeats(f"run-{number}", over))
            assert list(answers) == []

        staying = [pool.submit(stay, number) for number in range(1, OPEN_RUNS)]
        while (service.client.metric("open_streams") or 0) < OPEN_RUNS - 1:
            time.sleep(0.1)
        _row(
            f"{len(runs):,} open runs: resident memory before and after",
            f"{memory:.0f} and {_megabytes(service):.0f} MB",
        )
        processor, started = _processor_seconds(service), time.perf_counter()
        time.sleep(seconds)
        spent = (_processor_seconds(service) - processor) / (time.perf_counter() - started)
        _row("their heartbeats, one each in 5 s", f"{spent:.1%} of a core")
        stream = OpenStream(service.client)
        stream.send(opening("run-0"))
        _row("acknowledgement beside them", _spread(_acknowledgements(stream, 1, seconds)))
        stream.end()
        over.set()
        for each in staying:
            each.result()


def _heartbeats(run_id: str, over: threading.Event) -> Iterator[pb.ReportRequest]:
    yield opening(run_id)
    while True:
        yield heartbeat()
        if over.wait(HEARTBEAT_SECONDS):
            return


def _memory(start: Start, seconds: float) -> None:
    """What the service holds while runs report and Prometheus scrapes, at ten times in between."""
    with start() as service:
        runs = _register(service.client, RUNS)
        told, sent = time.perf_counter(), 0
        until = told + seconds
        with _Scraping(service.client, pause=5.0):
            while (now := time.perf_counter()) < until:
                if now >= told:
                    told += seconds / 10
                    _row(f"resident memory after {sent * len(runs):,} observations", f"{_megabytes(service):.0f} MB")
                for run, packing in runs.items():
                    _send(service.client, run, packing, [(n, _serialized(n)) for n in range(sent + 1, sent + 3)])
                sent += 2
        _row(f"resident memory after {sent * len(runs):,} observations", f"{_megabytes(service):.0f} MB")


class _Scraping:
    """Scrapes one time after the other, beside the rest."""

    def __init__(self, client: Client, pause: float = 0.0) -> None:
        self.times: list[float] = []
        self._client = client
        self._pause = pause
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._scrape)

    def __enter__(self) -> _Scraping:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _scrape(self) -> None:
        address = f"http://{self._client.listening.http_address}/metrics"
        while not self._stop.wait(self._pause):
            self.times.append(_seconds(lambda: httpx.get(address, timeout=60, trust_env=False)))


def _acknowledgements(stream: OpenStream, first: int, seconds: float) -> list[float]:
    times: list[float] = []
    started = time.perf_counter()
    while time.perf_counter() - started < seconds:
        item = pb.ReportRequest(item=_observation(first + len(times)))
        times.append(_seconds(partial(stream.exchange, item)))
    return times


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _spread(times: list[float]) -> str:
    milliseconds = sorted(each * 1000 for each in times)
    tail = milliseconds[int(len(milliseconds) * 0.99)]
    return f"median {statistics.median(milliseconds):,.1f} ms, 99 % {tail:,.1f} ms, max {milliseconds[-1]:,.1f} ms"


def _row(side: str, result: str, processor_seconds: float | None = None) -> None:
    spent = "" if processor_seconds is None else f"{processor_seconds * 1e6:.0f}"
    print(f"| {side} | {result} | {spent} |", flush=True)


def _register(client: Client, count: int) -> dict[str, Packing]:
    runs = [f"run-{number}" for number in range(count)]
    return {run: Packing.of(client.register(_registration(run))) for run in runs}


def _registration(run: str) -> pb.Registration:
    inside = [pb.Group(layer=n, module=module, weights=10**7) for n in range(LAYERS) for module in MODULES]
    groups = inside + [pb.Group(module=module, weights=10**8) for module in OUTSIDE]
    return registration(run, groups=groups, references=[], tolerances=[])


def _observation(sequence: int) -> pb.Item:
    item = pb.Item(sequence=sequence)
    item.observation.CopyFrom(_template())
    item.observation.step = sequence
    return item


@cache
def _template() -> pb.Observation:
    groups = LAYERS * len(MODULES) + len(OUTSIDE)
    counts = ("changed", "newly_changed", "reverted", "step_changed", "touched", "hidden", "non_finite")
    arrays = {name: [1_234_567] * groups for name in counts}
    norms = {"squared_norm": [1.5] * groups, "max_abs": [0.5] * groups}
    return observation(1, references=[], changed_at=[], synchronisation=None, **arrays, **norms)


def _serialized(sequence: int) -> bytes:
    return _observation(sequence).SerializeToString()


def _series(client: Client) -> int:
    return sum(not line.startswith("#") for line in client.http.get("/metrics").text.splitlines())


def _processor_seconds(service: ServiceProcess) -> float:
    fields = Path(f"/proc/{service.process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _megabytes(service: ServiceProcess, which: str = "VmRSS") -> float:
    status = Path(f"/proc/{service.process.pid}/status").read_text(encoding="utf-8")
    return int(status.split(f"{which}:")[1].split()[0]) / 1000


SIDES: dict[str, Callable[[Start, float], None]] = {
    "load": _loads,
    "catch-up": _catch_up,
    "fleet": _fleet,
    "scrapes": _all_scrapes,
    "open-runs": _open_runs,
    "memory": _memory,
}


if __name__ == "__main__":
    main()
