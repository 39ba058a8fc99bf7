"""Where a service can be said to be, and what is said where it cannot."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from monitor import SparsityCallback
from monitor.errors import ConfigurationError
from monitor.report.reporter import Reporter
from monitor.report.target import check_target
from monitor.report.uploader.failures import Failure, Lasts
from monitor.report.uploader.in_turn import InTurn
from monitor.wire.channel import failure, open_channel
from monitor.wire.monitor_pb2 import ListRunsRequest, ListRunsResponse
from monitor.wire.monitor_pb2_grpc import (
    MonitorServiceServicer,
    MonitorServiceStub,
    add_MonitorServiceServicer_to_server,
)
from tests.report.attempts import ObservedModel, report_some, steps
from tests.service.running import Client


@pytest.mark.parametrize(
    "target",
    [
        "localhost:50051",
        "under_score.svc.cluster.local.:1",
        "127.0.0.1:65535",
        "[::1]:50051",
        "[fe80::1%eth0]:50051",
        "dns:monitor.example:50051",
        "dns:///monitor.example:50051",
        "dns://8.8.8.8/monitor.example:50051",
        "ipv4:192.0.2.1:50051",
        "ipv4:192.0.2.1:50051,192.0.2.2:50051",
        "ipv6:[2001:db8::1]:50051",
        "xds:///monitor",
        "unix:/run/monitor.sock",
        "unix-abstract:monitor",
        "vsock:2:50051",
        "grpcs://monitor.example:50051",
        "grpcs://[::1]:50051",
    ],
)
def test_what_grpc_knows_is_taken_as_it_is(target: str) -> None:
    assert check_target(target) == target
    assert SparsityCallback(target).settings.target == target
    # gRPC makes a channel of it; of what it does not know it makes a name to look up.
    open_channel(target).close()


def test_a_relative_socket_is_the_same_one_after_a_change_of_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert check_target("unix:run/s") == check_target(f"unix://{tmp_path}/run/s") == f"unix:{tmp_path}/run/s"


@pytest.mark.parametrize(
    ("target", "what_to_do"),
    [
        (" ", "give target=None to record only"),
        (" localhost:50051", "Take the spaces out"),
        ("localhost:50051\n", "Take the spaces out"),
        ("local host:50051", "Take the spaces out"),
        ("localhost", "as in 'localhost:50051'"),
        ("localhost:", "as in 'localhost:50051'"),
        ("[::1]", r"as in '\[::1\]:50051'"),
        ("dns:///monitor.example", "as in 'monitor.example:50051'"),
        ("ipv4:192.0.2.1", "as in '192.0.2.1:50051'"),
        (":50051", "Say the host, as in 'localhost:50051'"),
        ("localhost:0", "A port is from 1 to 65535"),
        ("localhost:99999", "A port is from 1 to 65535"),
        ("münchen.example:50051", "letters, digits, dots and hyphens"),
        ("::1", r"in brackets, as in '\[::1\]:50051'"),
        ("::1:50051", r"in brackets, as in '\[::1\]:50051'"),
        ("2001:db8::1:50051", r"in brackets, as in '\[2001:db8::1\]:50051'"),
        ("ipv6:::1:50051", r"in brackets, as in '\[::1\]:50051'"),
        ("http://monitor.example:50051", "Leave http:// away, as in 'monitor.example:50051'"),
        ("https://monitor.example/", "as in 'monitor.example:50051'. An encrypted .* as in 'grpcs://monitor.example:5"),
        ("grpc://monitor.example:50051", "Leave grpc:// away"),
        ("grpcs://monitor.example", r"as in 'monitor.example:50051'"),
        ("tcp://localhost:1", "Leave tcp:// away, as in 'localhost:1'"),
        ("http://me:secret@localhost:8765/run/1", "as in 'localhost:50051'. 8765 is where it serves its pages"),
        ("localhost:50051/", "Leave the path away, as in 'localhost:50051'"),
        ("localhost:50051/run", "Leave the path away"),
        ("unix:", "Say the path of the socket"),
        ("unix://run/monitor.sock", "unix:// comes an absolute path"),
        (f"unix:/{'x' * 200}", "the path of a socket has at most 103 bytes"),
        ("unix-abstract:a b", "Take the spaces out"),
        ("host-a:50051,", "An address is missing beside a comma"),
        ("host-a:50051, host-b:50051", "Take the spaces out"),
        ("host-a:50051,host-b", "as in 'host-b:50051'"),
        ("grpcs://host-a:50051,host-b:50051", "write grpcs:// before each"),
    ],
)
def test_a_target_that_cannot_work_is_answered_with_what_to_do(target: str, what_to_do: str) -> None:
    with pytest.raises(ConfigurationError, match=what_to_do) as refused:
        check_target(target)
    assert repr(target) in str(refused.value)
    with pytest.raises(ConfigurationError, match=what_to_do):
        SparsityCallback(target)


@pytest.mark.parametrize("target", [50051, b"localhost:50051", ("localhost", 50051), None])
def test_what_is_no_text_is_no_target(target: object) -> None:
    with pytest.raises(ConfigurationError, match=r"host:port.*in quotes"):
        check_target(target)


def test_what_is_proposed_instead_is_a_target() -> None:
    for target in ("localhost", "::1", "http://a:8765/", "https://a", "a:1/b", ":7", "dns:///a", "[::1]"):
        with pytest.raises(ConfigurationError) as refused:
            check_target(target)
        proposed = str(refused.value).partition(" as in '")[2].partition("'")[0]
        assert check_target(proposed) == proposed


class _Empty(MonitorServiceServicer):
    def ListRuns(self, request: ListRunsRequest, context: grpc.ServicerContext) -> ListRunsResponse:  # noqa: N802
        return ListRunsResponse()


@pytest.fixture
def listening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[grpc.Server]:
    """A gRPC server that can be bound anywhere; the working directory is the test's own."""
    monkeypatch.chdir(tmp_path)
    with ThreadPoolExecutor(1) as threads:
        server = grpc.server(threads)
        add_MonitorServiceServicer_to_server(_Empty(), server)
        yield server
        server.stop(None).wait()


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("unix:s", "unix:s"),
        ("unix:s", "unix://{directory}/s"),
        ("unix:a%20b%C3%A4", "unix:a bä"),
        ("unix:a%20b", "unix:a%20b"),
        ("unix-abstract:sparsity-monitor-{process}", "unix-abstract:sparsity-monitor-{process}"),
        ("[::1]:{port}", "[::1]:{port}"),
        ("127.0.0.1:{port}", "dns:///localhost:{port}"),
        ("127.0.0.1:{port}", "dns:127.0.0.1:{port}"),
        ("127.0.0.1:{port}", "ipv4:127.0.0.1:{port}"),
        ("[::1]:{port}", "ipv6:[::1]:{port}"),
    ],
)
def test_a_target_of_each_kind_reaches_its_server(
    address: str, target: str, listening: grpc.Server, tmp_path: Path
) -> None:
    words = {"directory": str(tmp_path), "process": str(os.getpid()), "port": "0"}
    port = listening.add_insecure_port(address.format(**words))
    listening.start()
    with open_channel(check_target(target.format(**words | {"port": str(port)}))) as channel:
        MonitorServiceStub(channel).ListRuns(ListRunsRequest(), timeout=60)


def test_a_run_reports_to_a_target_with_a_scheme(client: Client, observed: ObservedModel, directory: Path) -> None:
    reporter = Reporter(observed.registration(), directory, f"ipv4:{client.listening.grpc_address}")
    report_some(reporter, observed, 1)
    reporter.finish(1)
    assert reporter.close(timeout=60)
    assert steps(client, reporter.key.run_id) == [1]


def test_the_http_port_instead_of_the_other_is_recognised(client: Client) -> None:
    target = client.listening.http_address
    with open_channel(target) as channel, pytest.raises(grpc.RpcError) as failed:
        MonitorServiceStub(channel).ListRuns(ListRunsRequest(), timeout=60)
    assert "speaks HTTP and no gRPC: give the service's gRPC address" in failure(target, failed.value)


@pytest.mark.parametrize("target", ["host-a:50051,host-b:50051", "grpcs://host-a:50051,grpcs://[::1]:50051"])
def test_several_services_are_named_between_commas(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSITY_MONITOR_TARGET", target)
    assert SparsityCallback().settings.target == target


def test_a_token_goes_unencrypted_to_none_of_several_services(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSITY_MONITOR_TOKEN", "secret")
    with pytest.raises(ConfigurationError, match=r"the token for monitor.example:50051 would go .* unencrypted"):
        check_target("127.0.0.1:50051,monitor.example:50051")


def _order(target: str, *progressed: bool) -> list[tuple[str, bool]]:
    services = InTurn(target, ())
    tried = []
    for each in progressed:
        dialled = services.target
        services.fail(Failure("away", Lasts.PASSES), progressed=each)
        tried.append((dialled, services.go_on()))
    return tried


def test_services_are_dialled_in_turn_and_the_pause_grows_when_all_have_failed() -> None:
    tried = _order("a:1,b:1", False, False, False, True, False, False)
    assert tried == [("a:1", False), ("b:1", True), ("a:1", False), ("b:1", False), ("a:1", True), ("b:1", False)]
    assert _order("a:1", False, True) == [("a:1", True), ("a:1", True)]
