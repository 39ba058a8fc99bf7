"""Two services of one store in PostgreSQL: one has it, the other waits, and takes over. Nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pydantic import ValidationError
from sqlalchemy import event

from monitor.commands.doctor.finding import are_fine
from monitor.commands.doctor.way import way_to
from monitor.commands.listing import print_runs
from monitor.report.push import push
from monitor.report.reporter import Reporter
from monitor.service import background
from monitor.service.access.scopes import Scope
from monitor.service.care.tokens import create
from monitor.service.errors import AccessSettingsError, LostStoreError, StoreError
from monitor.service.metrics.instruments import Instruments
from monitor.service.recording.recorder import Recorder
from monitor.service.settings import ServiceSettings
from monitor.service.storage import lock
from monitor.service.storage.identity import store_identity
from monitor.service.storage.store import Store
from monitor.service.storage.stored import START
from monitor.service.storage.waiting import Waiting
from monitor.wire import monitor_pb2 as pb
from tests.eventually import eventually
from tests.report.attempts import ObservedModel, steps
from tests.service.breaking import break_once
from tests.service.messages import observed, opening, registration
from tests.service.postgresql import Cluster, running_cluster
from tests.service.running import Client, OpenStream, ServiceProcess, service_in_thread, settings_for
from tests.service.storing import add

pytestmark = pytest.mark.xdist_group("postgresql")


@pytest.fixture
def url(cluster: Cluster) -> str:
    return cluster.new_database()


@contextmanager
def pair(url: str) -> Iterator[tuple[Client, Client]]:
    """One that serves, and one that stands by."""
    with service_in_thread(url, standby=True) as first, service_in_thread(url, standby=True) as second:
        yield first, second


@pytest.fixture
def start_beside() -> Iterator[Callable[[str], Client]]:
    """Starts one that stands by."""
    with ExitStack() as stack:
        yield lambda url: stack.enter_context(service_in_thread(url, standby=True))


def serves(client: Client) -> bool:
    return client.http.get("/readyz").status_code == 200


def shown_runs(client: Client) -> set[str]:
    """The ids of the runs of which a scrape of this service shows series."""
    lines = client.http.get("/metrics").text.splitlines()
    return {line.split('run="')[1].split('"')[0] for line in lines if 'run="' in line}


def both(*clients: Client) -> str:
    return ",".join(each.listening.grpc_address for each in clients)


def execute(url: str, statement: str) -> None:
    psycopg = pytest.importorskip("psycopg")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement)


def cut_off(url: str) -> None:
    """End the connection of whoever has the store, as the server does that restarts or gives up on a network."""
    execute(
        url,
        "SELECT pg_terminate_backend(pid, 60000) FROM pg_locks "
        "WHERE locktype = 'advisory' AND granted AND classid = 1936748915 "
        "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
    )


def test_one_that_stands_by_says_who_has_the_store_and_shows_nothing(url: str) -> None:
    with pair(url) as (first, second):
        first.register(registration())
        first.send("run", [observed(1)])
        ready = second.http.get("/readyz")
        assert ready.status_code == 503
        assert "stands by: the store is served by sparsity-monitor, process" in ready.json()["detail"]
        assert second.http.get("/healthz").status_code == 200
        for path in ("/", "/api/runs", "/api/v1/runs", "/runs/run", "/api/v1/events"):
            assert second.http.get(path).status_code == 503, path
        for call in (
            lambda: second.send("run", [observed(2)]),
            lambda: second.run("run"),
            lambda: second.history("run"),
        ):
            with pytest.raises(grpc.RpcError, match="stands by: the store is served by") as refused:
                call()
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        check = health_pb2_grpc.HealthStub(second.channel).Check(health_pb2.HealthCheckRequest())
        assert check.status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert shown_runs(first) == {"run"}
        assert shown_runs(second) == set()
        assert second.metric("standing_by") == 1
        assert first.metric("standing_by") == 0
        assert second.metric("store_errors_total") == 0


def test_one_that_ends_hands_over_and_one_that_stands_by_may_end(url: str) -> None:
    with ExitStack() as until_it_ends:
        first = until_it_ends.enter_context(service_in_thread(url, standby=True))
        first.register(registration())
        stream = OpenStream(first)
        stream.send(opening("run"))
        stream.exchange(pb.ReportRequest(item=observed(1)))
        with service_in_thread(url, standby=True):
            pass
        # That another one has come and gone, this one does not notice.
        assert stream.exchange(pb.ReportRequest(item=observed(2))).acknowledgement.sequence == 2
        stream.end()
        with service_in_thread(url, standby=True) as second:
            until_it_ends.close()
            eventually(lambda: serves(second))
            assert second.send("run", [observed(3)])[-1].acknowledgement.sequence == 3
            assert steps(second, "run") == [1, 2, 3]
            assert second.metric("run_observations", run="run") == 3


def test_of_two_that_start_at_once_one_serves_also_when_both_start_again(url: str) -> None:
    settings = settings_for(url, standby=True)
    for start in (1, 2):
        with ThreadPoolExecutor(2) as starts:
            recorders = list(starts.map(lambda _: Recorder(settings, Instruments()), range(2)))
        (serving,) = [each for each in recorders if not each.stands_by]
        assert [run.registration.attempt for run in serving.live.all()] == [1][: start - 1]
        asyncio.run(serving.register(registration()))
        for each in recorders:
            asyncio.run(each.close())


def test_one_that_is_closed_gives_the_store_back_before_its_connection_ends(url: str) -> None:
    """The server may notice late that a connection ended, and whoever starts until then would stand by."""
    store, waiting = Store(url), Waiting(url)
    assert waiting.holder()
    at_the_end: list[str | None] = []
    event.listen(store._engine, "close", lambda *_of_connection: at_the_end.append(waiting.holder()))
    store.close()
    waiting.close()
    assert at_the_end == [None]


def test_one_that_is_closed_does_not_wait_for_a_server_that_does_not_answer(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "_WAIT_SECONDS", 0.1)
    store, waiting = Store(url), Waiting(url)
    with store._engine.connect() as connection:
        backend = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
    os.kill(backend, signal.SIGSTOP)
    try:
        store.close()
        assert waiting.holder()
    finally:
        os.kill(backend, signal.SIGCONT)
    eventually(lambda: waiting.holder() is None)
    waiting.close()


def test_killed_under_load_the_other_takes_over_and_every_observation_is_there_once(
    url: str, spawn: Callable[..., ServiceProcess], start_beside: Callable[[str], Client], tmp_path: Path
) -> None:
    first = spawn("--standby", store=url)
    second = start_beside(url)
    models = [ObservedModel() for _ in range(3)]
    # The one that stands by comes first: it is passed over.
    target = both(second, first.client)
    reporters = [Reporter(each.registration(), tmp_path / f"{n}", target) for n, each in enumerate(models)]
    ids = [each.key.run_id for each in reporters]
    enough = threading.Event()

    def train() -> None:
        while not enough.wait(0.02):
            for model, reporter in zip(models, reporters, strict=True):
                reporter.report(model.train_and_observe())

    def have_reached(client: Client, step: int) -> bool:
        return all((client.metric("run_step", run=run_id) or 0) >= step for run_id in ids)

    training = threading.Thread(target=train)
    training.start()
    try:
        eventually(lambda: have_reached(first.client, 5))
        first.signal(signal.SIGKILL)
        killed_at = models[0].step
        eventually(lambda: serves(second) and have_reached(second, killed_at + 5))
    finally:
        enough.set()
        training.join()
    for model, reporter in zip(models, reporters, strict=True):
        reporter.finish(model.step)
        assert reporter.close(timeout=60)
        found = [each.item for each in second.history(reporter.key.run_id)]
        assert [each.sequence for each in found] == list(range(1, model.step + 2))
        assert steps(second, reporter.key.run_id) == list(range(1, model.step + 1))


def test_one_that_lost_the_store_unnoticed_shows_and_takes_nothing_of_what_is_another_ones(
    url: str, spawn: Callable[..., ServiceProcess]
) -> None:
    first = spawn("--standby", store=url)
    first.client.register(registration())
    first.client.send("run", [observed(1)])
    with service_in_thread(url, standby=True) as second:
        first.process.send_signal(signal.SIGSTOP)
        cut_off(url)
        eventually(lambda: serves(second))
        second.register(registration())
        second.send("run", [observed(2), observed(3)])
        first.process.send_signal(signal.SIGCONT)
        # Already the first scrape: it may come before anything else tells that the store is another one's.
        assert shown_runs(first.client) == set()
        with pytest.raises(grpc.RpcError, match="stands by"):
            first.client.send("run", [observed(4)])
        assert shown_runs(second) == {"run"}
    eventually(lambda: serves(first.client))
    assert first.client.metric("run_step", run="run") == 3
    assert steps(first.client, "run") == [1, 2, 3]


def test_one_that_stands_by_takes_over_also_after_an_error_of_its_own(
    url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(background, "_AGAIN_SECONDS", 0.01)
    looks = break_once(Recorder, "keep", monkeypatch)
    with service_in_thread(url, standby=True) as client:
        eventually(lambda: client.metric("background_errors_total", work="standby") == 1)
        eventually(lambda: min(looks.values()) > 1)
    assert "this service takes over from no other" in caplog.text


def test_after_the_lock_is_lost_nothing_is_committed_whoever_has_it_since(url: str) -> None:
    lost = Store(url)
    lost.register(registration(), 1.0, 10)
    with pytest.raises(StoreError), lost._transaction() as connection:  # noqa: PT012 - the end of it raises
        connection.exec_driver_sql("UPDATE attempts SET dropped_items = 7")
        cut_off(url)
        # The lock is free while this transaction has yet to commit.
        other = Store(url)
    add(other, "run", 1, [observed(1)], None, now=2.0)
    for _ in range(2):
        with pytest.raises(LostStoreError):
            add(lost, "run", 1, [observed(2)], None, now=3.0)
        assert not lost.is_held()
        assert other.is_held()
        assert other.run("run").dropped_items == 0
        assert [each.item.sequence for each in other.history("run", START, 10)] == [1]
        other.close()
        other = Store(url)
    lost.close()
    assert other.is_held()
    other.close()


def test_both_find_the_store_again_after_the_database_was_restarted(tmp_path: Path) -> None:
    with running_cluster() as own, pair(own.new_database()) as clients:
        model = ObservedModel()
        reporter = Reporter(model.registration(), tmp_path, None)
        reporter.report(model.train_and_observe())
        reporter.finish(1)
        reporter.close(timeout=60)
        own.stop()
        eventually(lambda: not any(map(serves, clients)))
        assert not any(map(shown_runs, clients))
        own.start()
        eventually(lambda: any(map(serves, clients)))
        assert push(tmp_path, both(*clients), 60) == 2
        served = [each for each in clients if serves(each)]
        assert [steps(each, reporter.key.run_id) for each in served] == [[1]]


def test_one_that_stands_by_asks_for_the_tokens_of_the_store(url: str) -> None:
    with service_in_thread(url, standby=True):
        with (
            pytest.raises(AccessSettingsError, match="no token is asked for"),
            service_in_thread(url, standby=True, http_address="0.0.0.0:0"),
        ):
            raise AssertionError("it must not start")
        token, _ = create(url, "reader", frozenset({Scope.READ}), None)
        with service_in_thread(url, standby=True) as second:
            address = f"http://{second.listening.http_address}/api/runs"
            assert httpx.get(address, trust_env=False).status_code == 401
            bearer = {"Authorization": f"Bearer {token}"}
            assert httpx.get(address, headers=bearer, trust_env=False).status_code == 503


def known_as(client: Client) -> str:
    """The labels by which Prometheus knows which store a service has, or waits for."""
    (line,) = [
        each for each in client.http.get("/metrics").text.splitlines() if each.startswith("sparsity_monitor_store_info")
    ]
    return line


def test_prometheus_sees_who_is_a_pair(url: str, cluster: Cluster) -> None:
    with pair(url) as (first, second), service_in_thread(cluster.new_database()) as another:
        assert known_as(first) == known_as(second)
        assert re.fullmatch(r'.*{standby="true",store="[0-9a-f]{12}"} 1.0', known_as(first))
        assert 'standby="false"' in known_as(another)
        assert len({store_identity(each) for each in (url, cluster.new_database())} | {None}) == 3


def test_who_may_only_connect_knows_which_store_it_is(url: str) -> None:
    execute(url, "CREATE ROLE visitor LOGIN")
    assert store_identity(url.replace("monitor@", "visitor@")) == store_identity(url) is not None


def test_commands_find_the_one_that_serves(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pair(url) as (first, second):
        first.register(registration())
        print_runs(both(second, first))
        assert "run\ta run" in capsys.readouterr().out
        assert are_fine(found := list(way_to(both(second, first))))
        assert any(each.state == "ok" and "stands by" in each.found for each in found)
        assert {each.state for each in way_to(f"127.0.0.1:1,{first.listening.grpc_address}")} == {"ok", "warn"}
        alone = list(way_to(second.listening.grpc_address))[-1]
        assert alone.state == "fail"
        assert "takes nothing now: this service stands by" in alone.found


def test_a_file_is_not_waited_for() -> None:
    with pytest.raises(ValidationError, match="keep it in PostgreSQL"):
        ServiceSettings(store_url="sqlite:///store.db", standby=True)
