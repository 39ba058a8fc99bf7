"""What 10, 1,000 and 100,000 runs need: the cost of one is measured here, and that of many is simulated from it.

    python -m tests.benchmarks.scale [--runs 50] [--every 10]

A real service on a real PostgreSQL, both on this machine, with runs of a model with 36 layers (255 groups). What is
simulated: every run observes every so many seconds and sends a heartbeat every five, each at times of its own; a
service works these off one after the other, at the measured cost of each, beside the scrapes.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import psycopg

from monitor.report.uploader.delivery import HEARTBEAT_SECONDS
from monitor.service.settings import ServiceSettings
from monitor.wire import monitor_pb2 as pb
from tests.benchmarks.service import _megabytes, _observation, _processor_seconds, _register
from tests.service.messages import heartbeat, opening
from tests.service.postgresql import running_cluster
from tests.service.running import OpenStream, ServiceProcess

FLEETS = (10, 1000, 100_000)
ROUNDS = 20
HEARTBEATS = 20
SCRAPE_SECONDS = 15
SIMULATED_SECONDS = 60
OUTAGE_SECONDS = 60
BUSY = 0.7
"""Of a core that one service may use: the rest is for pages, curves, retention, and catching up."""
SERIES_BUDGET = int(ServiceSettings().series_budget)
"""Of each service, as it is by default: beyond it, runs are shown without their groups."""
SERIES_PER_PROMETHEUS = 5_000_000
"""What one Prometheus is given here; it needs a few kilobytes of memory for each."""
SLICE_SECONDS = 0.005
"""How long Python lets one thread go on beside another: a scrape is written in a thread of its own."""
COUNTS = ("changed", "newly_changed", "reverted", "step_changed", "touched", "hidden", "non_finite")


@dataclass(frozen=True)
class Costs:
    """What one run costs. Processor times in seconds of a core, sizes in bytes.

    Attributes:
        observation, heartbeat, registration: of the service, each time.
        written: of the service, for each series in a scrape, of a run that has changed since the last one.
        database: of PostgreSQL's own process, for each observation.
        memory: of the service, for each open run.
        stored: by each observation.
        series, without_groups: of the run; and where it is shown without its groups.
        scraped, compressed: by each of its series in a scrape.
    """

    observation: float
    heartbeat: float
    registration: float
    written: float
    database: float
    memory: float
    stored: float
    series: float
    without_groups: float
    scraped: float
    compressed: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=50, help="how many report while costs are measured")
    parser.add_argument("--every", type=float, default=10.0, help="seconds between two observations of a run")
    arguments = parser.parse_args()
    costs = measured(arguments.runs)
    print(f"{os.cpu_count()} cores; {arguments.runs} runs of 255 groups, PostgreSQL on the same machine\n")
    print("| of one run | measured |\n|---|---|")
    for name, value in rows_of(costs):
        print(f"| {name} | {value} |")
    print(f"\n| runs, an observation every {arguments.every:g} s | {' | '.join(f'{each:,}' for each in FLEETS)} |")
    print("|---" * (1 + len(FLEETS)) + "|")
    fleets = [needed(costs, runs, arguments.every) for runs in FLEETS]
    for name in fleets[0]:
        print(f"| {name} | {' | '.join(fleet[name] for fleet in fleets)} |")


def measured(runs: int) -> Costs:
    """Let so many runs report to a service, and return what each costs."""
    with _service() as (service, url):
        before = _megabytes(service)
        began = _processor_seconds(service)
        ids = _register(service.client, runs)
        registration = (_processor_seconds(service) - began) / runs
        streams = [OpenStream(service.client) for _ in ids]
        for run_id, stream in zip(ids, streams, strict=True):
            stream.send(opening(run_id))
        _observe(streams, 1)
        stored = _database_bytes(url)
        began, database_began = _processor_seconds(service), _database_seconds(url)
        for sequence in range(2, 2 + ROUNDS):
            _observe(streams, sequence)
        observations = ROUNDS * runs
        observation = (_processor_seconds(service) - began) / observations
        database = (_database_seconds(url) - database_began) / observations
        stored = (_database_bytes(url) - stored) / observations
        began = _processor_seconds(service)
        for _ in range(HEARTBEATS):
            for stream in streams:
                stream.send(heartbeat())
        # What comes after them in each stream is acknowledged after them.
        _observe(streams, 2 + ROUNDS)
        spent = _processor_seconds(service) - began - runs * observation
        began = _processor_seconds(service)
        text = service.client.http.get("/metrics", headers={"Accept-Encoding": "gzip"}).text
        scrape = _processor_seconds(service) - began
        memory = 1e6 * (_megabytes(service) - before) / runs
        for stream in streams:
            stream.end()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return Costs(
        observation,
        max(0.0, spent / (HEARTBEATS * runs)),
        registration,
        scrape / len(lines),
        database,
        memory,
        stored,
        len(lines) / runs,
        sum("layer=" not in line for line in lines) / runs,
        len(text) / len(lines),
        len(gzip.compress(text.encode(), compresslevel=1)) / len(lines),
    )


def rows_of(costs: Costs) -> list[tuple[str, str]]:
    """Return the costs of one run in words."""
    return [
        ("an observation, service", f"{costs.observation * 1e6:,.0f} µs of a core"),
        ("an observation, PostgreSQL", f"{costs.database * 1e6:,.0f} µs of a core"),
        ("an observation, stored", f"{costs.stored / 1e3:,.1f} kB"),
        ("a heartbeat, service", f"{costs.heartbeat * 1e6:,.0f} µs of a core"),
        ("a registration, service", f"{costs.registration * 1e6:,.0f} µs of a core"),
        ("series, and without its groups", f"{costs.series:,.0f} and {costs.without_groups:,.0f}"),
        ("a series in a scrape, service", f"{costs.written * 1e6:,.1f} µs of a core"),
        ("a series in a scrape", f"{costs.scraped:,.0f} bytes, compressed {costs.compressed:,.1f}"),
        ("memory of the service", f"{costs.memory / 1e3:,.0f} kB"),
    ]


def needed(costs: Costs, runs: int, every: float) -> dict[str, str]:
    """Return what so many runs need, in words, by what."""
    each = costs.observation / every + costs.heartbeat / HEARTBEAT_SECONDS
    services = next(n for n in itertools.count(1) if _busy(costs, runs / n, each) <= BUSY)
    of_one = math.ceil(runs / services)
    busy, shown = _busy(costs, of_one, each), shown_series(costs, of_one)
    series = services * shown
    waits = simulated_waits(costs, of_one, every)
    # All register anew, and bring what they kept.
    backlog = of_one * (costs.registration + OUTAGE_SECONDS * each)
    return {
        "observations per second": f"{runs / every:,.0f}",
        f"services that serve, each of them busy for at most {BUSY:g} of a core": f"{services:,}",
        "runs of one service": f"{of_one:,}",
        "cores of services": f"{services * busy:,.2f}",
        "cores of PostgreSQL": f"{runs / every * costs.database:,.2f}",
        "memory of one service": f"{of_one * costs.memory / 1e6:,.0f} MB",
        "acknowledged in it after, median and 99 %": "{:.1f} and {:.1f} ms".format(*1e3 * waits),
        f"caught up after {OUTAGE_SECONDS} s of outage in": f"{backlog / (1 - busy):,.1f} s",
        "stored per day": f"{runs / every * 86_400 * costs.stored / 1e9:,.1f} GB",
        "series, the groups of all": f"{runs * costs.series:,.0f}",
        f"series, at most {SERIES_BUDGET:,} of a service": f"{series:,.0f}",
        f"samples per second, every {SCRAPE_SECONDS} s": f"{series / SCRAPE_SECONDS:,.0f}",
        "one scrape of one service, compressed": f"{shown * costs.compressed / 1e6:,.1f} MB",
        f"Prometheus, of {SERIES_PER_PROMETHEUS / 1e6:g} million": f"{math.ceil(series / SERIES_PER_PROMETHEUS):,}",
    }


def shown_series(costs: Costs, runs: int | float) -> float:
    """Return how many series a service shows of so many runs."""
    return min(runs * costs.series, max(SERIES_BUDGET, runs * costs.without_groups))


def _busy(costs: Costs, runs: float, each: float) -> float:
    return runs * each + shown_series(costs, runs) * costs.written / SCRAPE_SECONDS


def simulated_waits(costs: Costs, runs: int, every: float) -> np.ndarray:
    """Return after how many seconds one service acknowledges, as median and 99th percentile.

    Its runs report at times of their own; it works off what they send in the order in which it comes, so that each
    waits for what is before it. While a scrape is written, both threads take turns.
    """
    random = np.random.default_rng(0)
    slices = math.ceil(shown_series(costs, runs) * costs.written / SLICE_SECONDS)
    kinds = (
        (_times(random.uniform(0, every, runs), every), costs.observation),
        (_times(random.uniform(0, HEARTBEAT_SECONDS, runs), HEARTBEAT_SECONDS), costs.heartbeat),
        (_times(2 * SLICE_SECONDS * np.arange(slices), SCRAPE_SECONDS), SLICE_SECONDS),
    )
    at = np.concatenate([times for times, _ in kinds])
    cost = np.concatenate([np.full(times.size, seconds) for times, seconds in kinds])
    order = np.argsort(at)
    # Each begins when it has come and the one before is done.
    done = np.cumsum(cost[order])
    ended = done + np.maximum.accumulate(at[order] - (done - cost[order]))
    waits = (ended - at[order])[order < kinds[0][0].size]
    return np.quantile(waits, (0.5, 0.99))


def _times(first: np.ndarray, period: float) -> np.ndarray:
    return (first[:, None] + period * np.arange(math.ceil(SIMULATED_SECONDS / period))).ravel()


@contextmanager
def _service() -> Iterator[tuple[ServiceProcess, str]]:
    with running_cluster() as cluster:
        url = cluster.new_database()
        service = ServiceProcess(url, "--max-runs", "100000")
        try:
            yield service, url
        finally:
            service.close()


def _observe(streams: list[OpenStream], sequence: int) -> None:
    random = np.random.default_rng(sequence)
    for stream in streams:
        item = _observation(sequence)
        for name in COUNTS:
            # PostgreSQL compresses what repeats.
            counts = getattr(item.observation, name)
            counts[:] = random.integers(10**7, size=len(counts)).tolist()
        for name in ("squared_norm", "max_abs"):
            values = getattr(item.observation, name)
            values[:] = random.random(len(values)).tolist()
        stream.send(pb.ReportRequest(item=item))
    for stream in streams:
        stream.answer()


def _database_bytes(url: str) -> float:
    with psycopg.connect(url, autocommit=True) as connection:
        return float(connection.execute("SELECT pg_database_size(current_database())").fetchone()[0])  # type: ignore[index]


def _database_seconds(url: str) -> float:
    """What the process of PostgreSQL that works for the service has spent."""
    with psycopg.connect(url, autocommit=True) as connection:
        holder = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND classid = 1936748915"
        (pid,) = connection.execute(holder).fetchone()  # type: ignore[misc]
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
