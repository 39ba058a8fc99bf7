"""What the page of a long run costs: its reads, its drawing, how late an observation is seen, and the tab's memory.

    python -m tests.benchmarks.page [--steps 100000] [--updates 200] [--every 0] [--store FILE]

A run of a model with 300 groups, in a real service and Debian's Chromium. `--store` keeps the run for the next time.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

from playwright.sync_api import CDPSession, Page, sync_playwright

from monitor.service.storage.store import Store
from monitor.wire import monitor_pb2 as pb
from tests.eventually import eventually
from tests.service.messages import registration
from tests.service.running import Client, ServiceProcess
from tests.service.storing import add
from tests.service.web.pages.browsing import CHROMIUM

LAYERS, MODULES, WEIGHTS = 50, ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"), 1_000_000
GROUPS = LAYERS * len(MODULES)
REPEATS = 5
BATCH = 1000
RUN = "/api/v1/runs/run"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--updates", type=int, default=200, help="observations that come while the page is open")
    parser.add_argument("--every", type=float, default=0.0, help="seconds from one of them to the next, at least")
    parser.add_argument("--store", type=Path, help="where the run is kept; by default it is made anew, and removed")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        store = arguments.store or Path(directory) / "store.db"
        if not store.exists():
            _fill(store, arguments.steps)
        service = ServiceProcess(store)
        try:
            print(
                f"{os.cpu_count()} cores; {arguments.steps:,} steps of {GROUPS} groups\n\n| what | value |\n|---|---|"
            )
            _reads(service.client)
            _watch(service.client, arguments.updates, arguments.every)
        finally:
            service.close()


def _observed(sequence: int) -> pb.Item:
    changed = WEIGHTS // 10 + sequence % 1000
    counts = {name: [changed] * GROUPS for name in ("changed", "touched")}
    moved = {name: [changed // 10] * GROUPS for name in ("newly_changed", "reverted", "step_changed", "hidden")}
    observation = pb.Observation(step=sequence, stride=1, observed_at=1.7e9 + sequence, host_seconds=0.001)
    observation.MergeFrom(pb.Observation(**counts, **moved))
    return pb.Item(sequence=sequence, observation=observation)


def _fill(path: Path, steps: int) -> None:
    groups = [pb.Group(layer=layer, module=module, weights=WEIGHTS) for layer in range(LAYERS) for module in MODULES]
    store = Store(f"sqlite:///{path}")
    store.register(registration(groups=groups, references=[], tolerances=[]), time.time(), 1)
    for first in range(1, steps + 1, BATCH):
        add(
            store,
            "run",
            1,
            [_observed(step) for step in range(first, min(first + BATCH, steps + 1))],
            None,
            time.time(),
        )
    store.close()


def _reads(client: Client) -> None:
    curves = "&".join(f"fields={name}" for name in ("cumulative_sparsity", "step_sparsity", "changed", "touched"))
    for name, path in (
        ("curves, thinned to 1,000 points", f"{RUN}/history?{curves}"),
        ("groups at one step", f"{RUN}/groups?step=5000"),
        ("layers over the steps, 200 points", f"{RUN}/groups/history?by=layer"),
        ("overview with its sparklines, the first time", "/"),
        ("overview, again", "/"),
    ):
        repeats = 1 if "first" in name else REPEATS
        seconds, size = zip(*(_timed(client, path) for _ in range(repeats)), strict=True)
        _row(f"{name}: time of the read", f"{statistics.median(seconds):.2f} s, {size[0] / 1e3:,.0f} kB")


def _timed(client: Client, path: str) -> tuple[float, int]:
    began = time.perf_counter()
    answer = client.http.get(path)
    answer.raise_for_status()
    return time.perf_counter() - began, len(answer.content)


def _watch(client: Client, updates: int, every: float) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        began = time.perf_counter()
        page.goto(f"http://{client.listening.http_address}/runs/run")
        _until(page, "document.getElementById('curves').data?.length > 0")
        _row("page opened: the curves are drawn after", f"{time.perf_counter() - began:.2f} s")
        _until(page, "document.getElementById('live').textContent === 'live'")
        _row("page opened: everything is drawn after", f"{time.perf_counter() - began:.2f} s")
        last = int(page.evaluate("document.getElementById('curves').data.at(-1).x.at(-1)"))
        devtools = page.context.new_cdp_session(page)
        late, memory = _follow(client, page, devtools, range(last + 1, last + 1 + updates), every)
        _row("an observation is drawn after, median and worst", f"{statistics.median(late):.2f} s, {max(late):.2f} s")
        for count, used in memory.items():
            _row(f"the tab after {count} observations", used)
        browser.close()


def _follow(
    client: Client, page: Page, devtools: CDPSession, steps: range, every: float
) -> tuple[list[float], dict[int, str]]:
    late, memory = [], {}
    for number, step in enumerate(steps, 1):
        began = time.perf_counter()
        client.send("run", [_observed(step)])
        _until(page, f"document.getElementById('curves').data.some(curve => curve.x.at(-1) === {step})")
        late.append(time.perf_counter() - began)
        if number in (len(steps) // 10, len(steps) // 2, len(steps)):
            memory[number] = _used(devtools)
        time.sleep(max(0.0, began + every - time.perf_counter()))
    return late, memory


def _used(devtools: CDPSession) -> str:
    devtools.send("HeapProfiler.collectGarbage")
    counts = devtools.send("Memory.getDOMCounters")
    heap = devtools.send("Runtime.getHeapUsage")["usedSize"]
    return f"{heap / 1e6:.1f} MB, {counts['nodes']:,} nodes, {counts['jsEventListeners']:,} listeners"


def _until(page: Page, expression: str) -> None:
    eventually(lambda: bool(page.evaluate(expression)), seconds=600)


def _row(name: str, value: str) -> None:
    print(f"| {name} | {value} |", flush=True)


if __name__ == "__main__":
    main()
