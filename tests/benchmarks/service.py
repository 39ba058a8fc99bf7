"""What a service takes: observations per second, acknowledgements under load, and scrapes of many series meanwhile.

    python -m tests.benchmarks.service [--seconds 10]

Runs of a model with 36 layers (255 groups) report to a real service over gRPC. The load is made on the same cores.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx

from monitor.wire import monitor_pb2 as pb
from tests.service.messages import observed, opening, registration
from tests.service.running import Client, OpenStream, ServiceProcess

RUNS = 50
LAYERS = 36
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
OUTSIDE = ("embed_tokens", "norm", "lm_head")
CATCH_UP_ITEMS = 5000
BATCH_ITEMS = 200
SCRAPED_SERIES = (50_000, 116_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each side is measured")
    seconds = parser.parse_args().seconds
    print(f"{os.cpu_count()} cores; one observation has {_observation(1).ByteSize()} bytes\n")
    print("| side | result | service, µs of a core per observation |\n|---|---|---|")
    with _service() as service:
        rate = _full_load(service, seconds)
        _half_load(service, seconds, rate / 2)
    with _service() as service:
        _catch_up(service)
    for series in SCRAPED_SERIES:
        with _service() as service:
            _scrapes(service.client, series, seconds)


@contextmanager
def _service() -> Iterator[ServiceProcess]:
    with tempfile.TemporaryDirectory() as directory:
        service = ServiceProcess(Path(directory) / "store.db")
        try:
            yield service
        finally:
            service.close()


def _full_load(service: ServiceProcess, seconds: float) -> float:
    """Every run sends as fast as it is acknowledged. Returns observations per second."""
    until = time.perf_counter() + seconds

    def send(run_id: str) -> int:
        sent = 0
        while time.perf_counter() < until:
            service.client.send(run_id, [_observation(sent + each) for each in range(1, BATCH_ITEMS + 1)])
            sent += BATCH_ITEMS
        return sent

    runs = _register(service.client, RUNS)
    memory, processor, started = _megabytes(service), _processor_seconds(service), time.perf_counter()
    with ThreadPoolExecutor(len(runs)) as pool:
        sent = sum(pool.map(send, runs))
    rate = sent / (time.perf_counter() - started)
    _row(f"{RUNS} runs at once", f"{rate:,.0f} observations/s", (_processor_seconds(service) - processor) / sent)
    _row(f"resident memory before and after these {sent:,}", f"{memory:.0f} and {_megabytes(service):.0f} MB")
    return rate


def _half_load(service: ServiceProcess, seconds: float, rate: float) -> None:
    """Every run sends at its times, whether or not the one before is acknowledged soon."""
    pause = RUNS / rate
    started = time.perf_counter()

    def exchange(number: int) -> list[float]:
        stream = OpenStream(service.client)
        stream.send(opening(f"run-{number}"))
        times: list[float] = []
        while (due := started + (len(times) + number / RUNS) * pause) < started + seconds:
            time.sleep(max(0.0, due - time.perf_counter()))
            stream.exchange(pb.ReportRequest(item=_observation(10**6 + len(times))))
            times.append(time.perf_counter() - due)
        stream.end()
        return times

    with ThreadPoolExecutor(RUNS) as pool:
        times = [each for some in pool.map(exchange, range(RUNS)) for each in some]
    _row(f"acknowledgement at {len(times) / seconds:,.0f} observations/s", _spread(times))


def _catch_up(service: ServiceProcess) -> None:
    (run,) = _register(service.client, 1)
    items = [_observation(sequence) for sequence in range(1, CATCH_UP_ITEMS + 1)]
    processor = _processor_seconds(service)
    seconds = _seconds(lambda: service.client.send(run, items))
    spent = (_processor_seconds(service) - processor) / len(items)
    _row(f"one run catches up by {len(items):,}", f"{len(items) / seconds:,.0f} observations/s", spent)


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


class _Scraping:
    """Scrapes one time after the other, beside the rest."""

    def __init__(self, client: Client) -> None:
        self.times: list[float] = []
        self._client = client
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
        while not self._stop.is_set():
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


def _register(client: Client, count: int) -> list[str]:
    runs = [f"run-{number}" for number in range(count)]
    for run in runs:
        client.register(_registration(run))
    return runs


def _registration(run: str) -> pb.Registration:
    inside = [pb.Group(layer=n, module=module, weights=10**7) for n in range(LAYERS) for module in MODULES]
    groups = inside + [pb.Group(module=module, weights=10**8) for module in OUTSIDE]
    return registration(run, groups=groups, references=[], tolerances=[])


def _observation(sequence: int) -> pb.Item:
    groups = LAYERS * len(MODULES) + len(OUTSIDE)
    counts = ("changed", "newly_changed", "reverted", "step_changed", "touched", "hidden", "non_finite")
    arrays = {name: [1_234_567] * groups for name in counts}
    norms = {"squared_norm": [1.5] * groups, "max_abs": [0.5] * groups}
    return observed(sequence, references=[], changed_at=[], synchronisation=None, **arrays, **norms)


def _series(client: Client) -> int:
    return sum(not line.startswith("#") for line in client.http.get("/metrics").text.splitlines())


def _processor_seconds(service: ServiceProcess) -> float:
    fields = Path(f"/proc/{service.process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _megabytes(service: ServiceProcess) -> float:
    status = Path(f"/proc/{service.process.pid}/status").read_text(encoding="utf-8")
    return int(status.split("VmRSS:")[1].split()[0]) / 1000


if __name__ == "__main__":
    main()
