"""What tokens and encryption cost the service: acknowledged observations and HTTP answers per second, with and without.

    python -m tests.benchmarks.access [--seconds 5] [--rounds 3]

Four services stand beside each other on the same cores as the load, which is given to one of them at a time, in turns.
"""

from __future__ import annotations

import argparse
import os
import ssl
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx

from monitor.service.access.scopes import Scope
from monitor.service.care.tokens import create
from monitor.wire import monitor_pb2 as pb
from monitor.wire.channel import open_channel
from monitor.wire.credentials import CA
from monitor.wire.monitor_pb2_grpc import MonitorServiceStub
from tests.service.access.closed import Certificates, make_certificates
from tests.service.messages import changed, observed, register_request, registration, stream_of
from tests.service.running import ServiceProcess

RUNS = 10
GROUPS = 250
BATCH_ITEMS = 200


class Side(NamedTuple):
    """One service as senders and readers reach it."""

    name: str
    stub: MonitorServiceStub
    metadata: list[tuple[str, str]]
    http: httpx.Client


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each side is measured in each round")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    measures: tuple[Callable[[Side, int, float], float], ...] = (_observations, _answers)
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        certificates = make_certificates(Path(directory) / "certificates")
        os.environ[CA] = str(certificates.ca)
        sides = [
            stack.enter_context(_side(Path(directory), certificates, tokens=tokens, encrypted=encrypted))
            for encrypted in (False, True)
            for tokens in (False, True)
        ]
        found: dict[str, list[list[float]]] = {side.name: [[] for _ in measures] for side in sides}
        for number in range(arguments.rounds):
            for side in sides:
                for measure, rates in zip(measures, found[side.name], strict=True):
                    rates.append(measure(side, number, arguments.seconds))
    print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}; median of {arguments.rounds}\n")
    print(f"| service | observations/s of {RUNS} runs at once | HTTP answers/s of one reader |\n|---|---|---|")
    for name, rates in found.items():
        print(f"| {name} | {' | '.join(f'{statistics.median(each):,.0f}' for each in rates)} |")


@contextmanager
def _side(directory: Path, certificates: Certificates, *, tokens: bool, encrypted: bool) -> Iterator[Side]:
    store = directory / f"{tokens}-{encrypted}.db"
    secret = create(f"sqlite:///{store}", "all", list(Scope), None)[0] if tokens else ""
    files = ("--tls-certificate", str(certificates.certificate), "--tls-key", str(certificates.key))
    service = ServiceProcess(store, *(files if encrypted else ()))
    try:
        listening = service.client.listening
        header = {"Authorization": f"Bearer {secret}"} if tokens else {}
        context = ssl.create_default_context(cafile=certificates.ca)
        http = httpx.Client(
            base_url=f"{'https' if encrypted else 'http'}://{listening.http_address}",
            headers=header,
            verify=context,
            trust_env=False,
        )
        with open_channel(f"{'grpcs://' if encrypted else ''}{listening.grpc_address}") as channel, http:
            metadata = [(name.lower(), value) for name, value in header.items()]
            name = " and ".join(["TLS"] * encrypted + ["tokens"] * tokens) or "open"
            yield Side(name, MonitorServiceStub(channel), metadata, http)
    finally:
        service.close()


def _observations(side: Side, number: int, seconds: float) -> float:
    """Every run sends as fast as it is acknowledged. Returns observations per second."""
    until = time.perf_counter() + seconds

    def send(run_id: str) -> int:
        side.stub.RegisterRun(register_request(_registration(run_id)), timeout=60, metadata=side.metadata)
        sent = 0
        while time.perf_counter() < until:
            items = [_observed(sent + each) for each in range(1, BATCH_ITEMS + 1)]
            list(side.stub.Report(iter(stream_of(run_id, items)), timeout=60, metadata=side.metadata))
            sent += BATCH_ITEMS
        return sent

    started = time.perf_counter()
    with ThreadPoolExecutor(RUNS) as pool:
        sent = sum(pool.map(send, [f"run-{number}-{each}" for each in range(RUNS)]))
    return sent / (time.perf_counter() - started)


def _answers(side: Side, _number: int, seconds: float) -> float:
    """One reader asks for one run over one connection, again and again."""
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        side.http.get("/api/runs/run-0-0").raise_for_status()
        count += 1
    return count / (time.perf_counter() - started)


def _registration(run_id: str) -> pb.Registration:
    groups = [pb.Group(layer=layer, module="mlp", weights=1_000_000) for layer in range(GROUPS)]
    return changed(registration(run_id), groups=groups, references=[], tolerances=[], base_squared_norm=[])


def _observed(sequence: int) -> pb.Item:
    counts = [1000 + (7919 * sequence + group) % 50_000 for group in range(GROUPS)]
    names = ("changed", "newly_changed", "reverted", "step_changed", "touched", "hidden", "non_finite")
    nothing = {"references": [], "changed_at": [], "squared_norm": [], "max_abs": [], "synchronisation": None}
    return observed(sequence, **nothing, **dict.fromkeys(names, counts))


if __name__ == "__main__":
    main()
