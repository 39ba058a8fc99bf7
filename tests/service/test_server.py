from __future__ import annotations

import itertools
import os
import re
import resource
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from monitor.service.errors import AddressUnavailableError
from monitor.service.server import SERVICE_NAME, _bound
from monitor.wire import monitor_pb2 as pb
from tests.eventually import eventually
from tests.service.messages import logged, observed, opening, registration
from tests.service.postgresql import Cluster, running_cluster
from tests.service.running import Client, OpenStream, ServiceProcess, service_in_thread


def test_health_and_reflection_are_served(client: Client) -> None:
    stub = health_pb2_grpc.HealthStub(client.channel)
    for service in ("", SERVICE_NAME):
        status = stub.Check(health_pb2.HealthCheckRequest(service=service)).status
        assert status == health_pb2.HealthCheckResponse.SERVING
    assert SERVICE_NAME in ProtoReflectionDescriptorDatabase(client.channel).get_services()


@pytest.mark.parametrize(("option", "setting"), [("--grpc-address", "grpc"), ("--http-address", "http")])
def test_an_address_in_use_is_named_with_what_to_do(tmp_path: Path, client: Client, option: str, setting: str) -> None:
    taken = getattr(client.listening, f"{setting}_address")
    with (
        pytest.raises(AddressUnavailableError, match=f"cannot listen on {taken}.*{option}.*port 0"),
        service_in_thread(tmp_path / "store.db", **{f"{setting}_address": taken}),
    ):
        raise AssertionError("it must not start")


def test_an_ipv6_address_is_served(tmp_path: Path) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with service_in_thread(tmp_path / "store.db", grpc_address="[::1]:0", http_address="[::1]:0") as client:
        client.register(registration())
        assert client.http.get("/readyz").status_code == 200
        assert client.listening.http_address.startswith("[::1]:")


def test_an_answer_in_several_pieces_is_sent_at_once() -> None:
    # Seen from outside it is 40 ms more for each request, which a busy machine may take as well.
    with _bound("127.0.0.1:0") as bound, socket.create_connection(bound.getsockname()):
        accepted, _ = bound.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


def test_a_store_that_cannot_be_opened_ends_the_start(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="check that its directory exists"):
        ServiceProcess(tmp_path / "missing" / "store.db")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_service_in_order(spawn: Callable[..., ServiceProcess], number: int) -> None:
    service = spawn()
    service.client.register(registration())
    stream = OpenStream(service.client)
    stream.send(opening("run"), pb.ReportRequest(item=observed(1)))
    assert stream.answer().acknowledgement.sequence == 1
    assert service.signal(number) == 0
    with pytest.raises(grpc.RpcError) as ended:
        stream.answer()
    assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "connect again" in str(ended.value.details())
    assert "Traceback" not in service.close()


class _Endless:
    """Sends items for ever, and tells how far they were acknowledged and how the stream ended."""

    def __init__(self, client: Client) -> None:
        items = (pb.ReportRequest(item=observed(sequence)) for sequence in itertools.count(1))
        self._call = client.stub.Report(itertools.chain([opening("run")], items))
        self.acknowledged = 0
        self.ended = ""

    def go_on_until(self, enough: Callable[[int], bool]) -> None:
        """Receive until that much is acknowledged, or the stream ends."""
        try:
            for response in self._call:
                self.acknowledged = response.acknowledgement.sequence
                if enough(self.acknowledged):
                    return
        except grpc.RpcError as error:
            self.ended = f"{error.code().name}: {error.details()}"


def test_a_sender_that_never_stops_does_not_hold_up_the_end(spawn: Callable[..., ServiceProcess]) -> None:
    service = spawn()
    service.client.register(registration())
    sender = _Endless(service.client)
    sender.go_on_until(lambda acknowledged: acknowledged > 0)
    receiving = threading.Thread(target=sender.go_on_until, args=[lambda _acknowledged: False])
    receiving.start()
    assert service.signal(signal.SIGTERM) == 0
    receiving.join(60)
    assert sender.ended.startswith("UNAVAILABLE: the service is stopping; connect again")
    stored = [each.item.sequence for each in spawn().client.history("run")]
    assert stored[: sender.acknowledged] == list(range(1, sender.acknowledged + 1))


def test_what_was_acknowledged_survives_a_kill(spawn: Callable[..., ServiceProcess]) -> None:
    service = spawn()
    service.client.register(registration())
    sender = _Endless(service.client)
    sender.go_on_until(lambda acknowledged: acknowledged > 200)
    service.process.kill()
    sender.go_on_until(lambda _acknowledged: False)
    service = spawn()
    stored = [each.item.sequence for each in service.client.history("run")]
    assert stored[: sender.acknowledged] == list(range(1, sender.acknowledged + 1))
    assert service.client.register(registration()).last_sequence == stored[-1]


def test_metrics_are_right_at_once_after_a_kill(spawn: Callable[..., ServiceProcess]) -> None:
    service = spawn()
    service.client.register(registration())
    stream = OpenStream(service.client)
    stream.send(
        opening("run"), *(pb.ReportRequest(item=item) for item in (observed(1), observed(2), logged(3, loss=7)))
    )
    while stream.answer().acknowledgement.sequence < 3:
        pass
    before = _runs_and_groups(service.client)
    service.process.kill()
    after = _runs_and_groups(spawn().client)
    heard = 'sparsity_monitor_run_last_heard_timestamp_seconds{run="run"}'
    # Written down once a second at most.
    assert before[heard] - 1.1 <= after.pop(heard) <= before.pop(heard)
    assert after == before
    assert len(before) > 60


def _runs_and_groups(client: Client) -> dict[str, float]:
    lines = re.findall(r"^(sparsity_monitor_(?:run|group)_.*) (.*)", client.http.get("/metrics").text, re.MULTILINE)
    return {series: float(value) for series, value in lines}


def test_a_file_that_may_not_grow_is_not_acknowledged_and_passes(spawn: Callable[..., ServiceProcess]) -> None:
    service = spawn()
    client, pid = service.client, service.process.pid
    client.register(registration())
    client.send("run", [observed(1)])
    _soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (4096, hard))
    with pytest.raises(grpc.RpcError) as refused:
        client.send("run", [observed(2)])
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "may write no larger file" in str(refused.value.details())
    assert client.metric("run_step", run="run") == 1
    assert client.metric("store_errors_total") == 1
    ready = client.http.get("/readyz")
    assert ready.status_code == 503
    assert "may write no larger file" in ready.json()["detail"]
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
    assert client.http.get("/readyz").status_code == 200
    client.send("run", [observed(2)])
    assert [each.item.sequence for each in client.history("run")] == [1, 2]
    assert client.metric("run_step", run="run") == 2


@pytest.fixture
def own_cluster() -> Iterator[Cluster]:
    """A database server that a test may stop."""
    with running_cluster() as cluster:
        yield cluster


def test_a_database_that_goes_away_and_comes_back(own_cluster: Cluster) -> None:
    with service_in_thread(own_cluster.new_database()) as client:
        client.register(registration())
        client.send("run", [observed(1)])
        own_cluster.stop()
        try:
            with pytest.raises(grpc.RpcError) as refused:
                client.send("run", [observed(2)])
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            assert client.http.get("/healthz").status_code == 200
            assert client.http.get("/readyz").status_code == 503
            assert client.metric("run_step", run="run") == 1
        finally:
            own_cluster.start()
        assert client.http.get("/readyz").status_code == 200
        assert client.send("run", [observed(2)])[-1].acknowledgement.sequence == 2
        assert len(client.history("run")) == 2


def test_a_database_that_was_restarted_unnoticed(own_cluster: Cluster) -> None:
    with service_in_thread(own_cluster.new_database()) as client:
        client.register(registration())
        own_cluster.stop()
        own_cluster.start()
        assert client.send("run", [observed(1)])[-1].acknowledgement.sequence == 1
        assert client.metric("store_errors_total") == 0


@pytest.mark.parametrize("lost", ["items", "attempts", "sparsity_monitor_schema"])
@pytest.mark.xdist_group("postgresql")
def test_a_table_that_was_dropped_is_named_until_it_is_back(lost: str, cluster: Cluster) -> None:
    url = cluster.new_database()
    with service_in_thread(url) as client:
        client.register(registration())
        _execute(url, f"ALTER TABLE {lost} RENAME TO elsewhere")
        ready = client.http.get("/readyz")
        assert ready.status_code == 503
        assert f'relation "{lost}" does not exist' in ready.json()["detail"]
        _execute(url, f"ALTER TABLE elsewhere RENAME TO {lost}")
        assert client.http.get("/readyz").status_code == 200
        assert client.send("run", [observed(1)])[-1].acknowledgement.sequence == 1


@pytest.mark.xdist_group("postgresql")
def test_into_a_database_that_was_made_anew_nothing_is_taken_before_a_restart(cluster: Cluster) -> None:
    url = cluster.new_database()
    name = url.split("/")[3].split("?")[0]
    with service_in_thread(url) as client:
        client.register(registration())
        server = url.replace(f"/{name}", "/postgres")
        _execute(server, f"DROP DATABASE {name} WITH (FORCE)")
        with pytest.raises(grpc.RpcError, match=f'database "{name}" does not exist'):
            client.send("run", [observed(1)])
        assert client.http.get("/readyz").status_code == 503
        _execute(server, f"CREATE DATABASE {name}")
        with pytest.raises(grpc.RpcError, match="does not exist"):
            client.send("run", [observed(1)])
        assert client.http.get("/readyz").status_code == 503
    with service_in_thread(url) as client:
        client.register(registration())
        assert client.send("run", [observed(1)])[-1].acknowledgement.sequence == 1


def _execute(url: str, statement: str) -> None:
    psycopg = pytest.importorskip("psycopg")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement)


def test_a_service_that_stops_is_not_ready(spawn: Callable[..., ServiceProcess]) -> None:
    service = spawn()
    url = f"http://{service.client.listening.http_address}/readyz"
    assert httpx.get(url, trust_env=False).status_code == 200
    os.kill(service.process.pid, signal.SIGTERM)

    def refused() -> bool:
        try:
            return httpx.get(url, trust_env=False).status_code == 503
        except httpx.TransportError:
            return True

    eventually(refused)
