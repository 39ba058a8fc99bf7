"""The lines of groups that are kept from one scrape for the next are those that would be written anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from monitor.service.live.runs import LiveRun, LiveRuns, from_store
from monitor.service.metrics.exposition import Exposition
from monitor.service.metrics.runs import LiveMetrics
from monitor.service.settings import ServiceSettings
from monitor.service.storage.store import Store
from monitor.wire import monitor_pb2 as pb
from tests.service.messages import observed, registration
from tests.service.running import Client, settings_for
from tests.service.storing import add

TEXT = "text/plain;version=0.0.4"
OPENMETRICS = "application/openmetrics-text;version=1.0.0"
# What begins another metric where a line begins.
NASTY = '# HELP a_metric is "one"\n# TYPE a_metric gauge\n# EOF\n'


class Scraped:
    """Runs in a store, and what scrapes of them are answered with: by what was kept, and anew."""

    def __init__(self, path: Path) -> None:
        self.settings = settings_for(path / "store.db", lost_after_seconds=1e12, finished_grace_seconds=1e12)
        self.store = Store(self.settings.store_url)
        self.live = LiveRuns([])
        self.kept = self.exposition()

    def exposition(self, **changes: Any) -> Exposition:
        settings = ServiceSettings(**(self.settings.model_dump() | changes))
        return Exposition(CollectorRegistry(), LiveMetrics(self.live, settings, "http://localhost"))

    def report(self, run_id: str, *steps: int, attempt: int = 1, resumed_from_step: int = 0) -> None:
        references = [pb.Reference(name=NASTY, weights=[0, 60, 40])]
        about = registration(run_id, attempt, resumed_from_step=resumed_from_step, references=references)
        self.store.register(about, 1e9, 10)
        add(self.store, run_id, attempt, [observed(step, changed=[0, step, 1]) for step in steps], None, 1e9)
        self.live.put(from_store(self.store.run(run_id)))

    def check(self) -> None:
        for accept in (TEXT, OPENMETRICS):
            encode, form = choose_encoder(accept)
            assert self.kept.text(encode, form) == self.exposition().text(encode, form)


@pytest.fixture
def scraped(tmp_path: Path) -> Iterator[Scraped]:
    scraped = Scraped(tmp_path)
    yield scraped
    scraped.store.close()


def test_whatever_becomes_of_runs_the_answer_is_as_if_nothing_was_kept(scraped: Scraped) -> None:
    changes: list[Callable[[], None]] = [
        lambda: None,
        lambda: scraped.report("a"),
        lambda: scraped.report("b", 1, 2),
        lambda: scraped.report("a", 1),
        lambda: scraped.report("a", 2, 3),
        lambda: scraped.report("b", attempt=2, resumed_from_step=1),
        lambda: scraped.live.put(replace(_run(scraped, "a"), heard_at=2e9)),
    ]
    for change in changes:
        change()
        scraped.check()
    encode, form = choose_encoder(OPENMETRICS)
    assert scraped.kept.text(encode, form).count(b"\n# EOF\n") == 1


def test_only_runs_that_have_changed_are_written_anew(scraped: Scraped) -> None:
    written: list[int] = []

    def encode(metrics: Collector) -> bytes:
        written.append(sum(sample.labels.get("run") == "a" for each in metrics.collect() for sample in each.samples))
        return choose_encoder(TEXT)[0](metrics)

    scraped.report("a", 1)
    scraped.report("b", 1)
    scraped.kept.text(encode, "text")
    groups, _, of_runs = written
    assert groups > 30
    scraped.report("b", 2)
    written.clear()
    scraped.kept.text(encode, "text")
    assert written == [0, of_runs]


def test_an_observation_is_in_the_next_scrape(client: Client, run_id: str) -> None:
    client.register(registration(run_id))
    for step in (1, 2, 3):
        client.send(run_id, [observed(step, changed=[0, step, 1])])
        assert client.metric("group_changed_weights", run=run_id, layer="00", module="mlp") == step


def _run(scraped: Scraped, run_id: str) -> LiveRun:
    run = scraped.live.get(run_id)
    assert run is not None
    return run
