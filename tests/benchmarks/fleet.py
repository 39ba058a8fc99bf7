"""How long a scrape of a whole fleet takes, and how long acknowledgements take meanwhile.

    python -m tests.benchmarks.fleet

50 runs of a model with 36 layers (255 groups) report to a real service over gRPC; Prometheus scrapes without a pause.
"""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from collections.abc import Callable
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
CATCH_UP_ITEMS = 500
SECONDS = 8.0


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        service = ServiceProcess(Path(directory) / "store.db")
        try:
            _measure(service.client)
            print(f"resident memory of the service: {_resident_megabytes(service.process.pid):.0f} MB")
        finally:
            service.close()


def _measure(client: Client) -> None:
    for number in range(RUNS):
        client.register(registration(f"run-{number}", groups=_groups(), references=[], tolerances=[]))
        client.send(f"run-{number}", [_observation(1)])
    print(f"one observation: {_observation(1).ByteSize()} bytes")
    items = [_observation(sequence) for sequence in range(2, CATCH_UP_ITEMS + 2)]
    print(f"{CATCH_UP_ITEMS} observations at once: {_seconds(lambda: client.send('run-0', items)):.2f} s")
    text = client.http.get("/metrics").text
    series = sum(not line.startswith("#") for line in text.splitlines())
    print(f"scrape: {series} series, {len(text) / 1e6:.1f} MB, {_scrape(client):.2f} s")
    stream = OpenStream(client)
    stream.send(opening("run-1"))
    _report("acknowledgement, no scrape", _acknowledgements(stream, first=2))
    with _Scraping(client):
        _report("acknowledgement, scraped without a pause", _acknowledgements(stream, first=1_000_000))
    stream.end()


class _Scraping:
    """Scrapes one time after the other, beside the rest."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._scrape)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _scrape(self) -> None:
        while not self._stop.is_set():
            _scrape(self._client)


def _scrape(client: Client) -> float:
    return _seconds(lambda: httpx.get(f"http://{client.listening.http_address}/metrics", timeout=60, trust_env=False))


def _acknowledgements(stream: OpenStream, first: int) -> list[float]:
    times: list[float] = []
    started = time.perf_counter()
    while time.perf_counter() - started < SECONDS:
        item = pb.ReportRequest(item=_observation(first + len(times)))
        times.append(_seconds(partial(stream.exchange, item)))
    return times


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _report(what: str, times: list[float]) -> None:
    milliseconds = sorted(each * 1000 for each in times)
    tail = milliseconds[int(len(milliseconds) * 0.99)]
    print(f"{what}: median {statistics.median(milliseconds):.1f} ms, 99 % {tail:.1f} ms, max {milliseconds[-1]:.1f} ms")


def _groups() -> list[pb.Group]:
    inside = [pb.Group(layer=n, module=module, weights=10**7) for n in range(LAYERS) for module in MODULES]
    return inside + [pb.Group(module=module, weights=10**8) for module in OUTSIDE]


def _observation(sequence: int) -> pb.Item:
    groups = LAYERS * len(MODULES) + len(OUTSIDE)
    counts = ("changed", "newly_changed", "reverted", "step_changed", "touched", "hidden", "non_finite")
    arrays = {name: [1_234_567] * groups for name in counts}
    norms = {"squared_norm": [1.5] * groups, "max_abs": [0.5] * groups}
    return observed(sequence, references=[], changed_at=[], synchronisation=None, **arrays, **norms)


def _resident_megabytes(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(status.split("VmRSS:")[1].split()[0]) / 1000


if __name__ == "__main__":
    main()
