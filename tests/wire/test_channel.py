"""How a service is dialled where the environment has a proxy: a real one, which refuses and remembers."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from monitor.wire.channel import failure, open_channel, proxy_of
from monitor.wire.monitor_pb2 import ListRunsRequest
from monitor.wire.monitor_pb2_grpc import MonitorServiceStub
from tests.proxy import EXCEPTIONS, VARIABLES, RefusingProxy, refusing_proxy

# What no resolver knows: a connection without the proxy fails at once.
ELSEWHERE = "service.invalid:50051"


@pytest.fixture
def proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RefusingProxy]:
    for name in VARIABLES + EXCEPTIONS:
        monkeypatch.delenv(name, raising=False)
    with refusing_proxy(tmp_path) as proxy:
        yield proxy


def dialled(target: str) -> str:
    """Call the service at `target`, where none is, and return what is said of that."""
    with open_channel(target) as channel, pytest.raises(grpc.RpcError) as failed:
        MonitorServiceStub(channel).ListRuns(ListRunsRequest(), timeout=60)
    return failure(target, failed.value)


LOOPBACK = [
    "localhost:1",
    "LOCALHOST.:1",
    "run.localhost:1",
    "127.0.0.1:1",
    "127.8.9.10:1",
    "127.1:1",
    "[::1]:1",
    "[::ffff:127.0.0.1]:1",
    "0.0.0.0:1",
    "dns:localhost:1",
    "dns:///localhost:1",
    "ipv4:127.0.0.1:1",
    "ipv4:127.0.0.1:1,127.0.0.2:1",
    "ipv6:[::1]:1",
    "unix:/nowhere",
    "unix:///nowhere",
    "unix-abstract:nowhere",
    "vsock:1:1",
]


@pytest.mark.parametrize("target", LOOPBACK)
def test_this_machine_is_dialled_without_a_proxy(
    target: str, proxy: RefusingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, proxy.url())
    said = dialled(target)
    assert proxy.asked == []
    assert proxy_of(target) is None
    assert "proxy" not in said.lower()


def test_a_name_of_this_machine_is_this_machine(proxy: RefusingProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Debian lists a machine's own name in /etc/hosts, beside 127.0.1.1."""
    own = socket.gethostname()
    try:
        addresses = {entry[4][0] for entry in socket.getaddrinfo(own, None)}
    except OSError:
        addresses = set()
    if not addresses or not all(str(address).startswith("127.") for address in addresses):
        pytest.skip("this machine's name is not a name of its loopback address")
    monkeypatch.setenv("http_proxy", proxy.url())
    dialled(f"{own}:1")
    assert proxy.asked == []


@pytest.mark.parametrize("variable", VARIABLES)
def test_elsewhere_a_failure_names_the_variable_of_the_proxy(
    variable: str, proxy: RefusingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, proxy.url("me:s3cret@"))
    said = dialled(ELSEWHERE)
    if proxy.asked:
        assert said.startswith(
            f"cannot reach the service at {ELSEWHERE} through the proxy of {variable}=http://***@{proxy.address}: "
        )
    else:
        # gRPC does not know this variable.
        assert said.startswith(f"cannot reach the service at {ELSEWHERE}: ")
    assert "s3cret" not in said
    assert bool(proxy.asked) == (variable in ("grpc_proxy", "https_proxy", "http_proxy"))


@pytest.mark.parametrize(
    ("environment", "target"),
    [
        ({"no_proxy": "service.invalid"}, ELSEWHERE),
        ({"no_proxy": "a.example, .INVALID"}, ELSEWHERE),
        ({"no_proxy": "other.invalid"}, ELSEWHERE),
        ({"no_proxy": ""}, ELSEWHERE),
        ({"no_grpc_proxy": "", "no_proxy": "service.invalid"}, ELSEWHERE),
        ({"no_grpc_proxy": "service.invalid"}, f"dns:///{ELSEWHERE}"),
        ({"NO_PROXY": "service.invalid"}, ELSEWHERE),
        ({"no_proxy": "*"}, ELSEWHERE),
        ({"no_proxy": "192.0.2.0/24"}, "ipv4:192.0.2.7:50051"),
        ({"no_proxy": "192.0.2.7"}, "192.0.2.7:50051"),
        ({"no_proxy": "198.51.100.0/24"}, "192.0.2.7:50051"),
        ({"grpc_proxy": ""}, ELSEWHERE),
        ({"https_proxy": "socks5://127.0.0.1:1"}, ELSEWHERE),
        ({"https_proxy": "proxy.example:3128"}, ELSEWHERE),
    ],
)
def test_the_proxy_that_is_named_is_the_one_that_grpc_takes(
    environment: dict[str, str], target: str, proxy: RefusingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", proxy.url())
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    # Where the proxy is left out, the documentation's addresses answer nobody.
    with open_channel(target) as channel, pytest.raises(grpc.RpcError):
        MonitorServiceStub(channel).ListRuns(ListRunsRequest(), timeout=1)
    assert (proxy_of(target) is not None) == bool(proxy.asked)


def test_a_proxy_that_is_away_is_named(monkeypatch: pytest.MonkeyPatch, proxy: RefusingProxy) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    assert " through the proxy of https_proxy=http://127.0.0.1:1: " in dialled(ELSEWHERE)


def test_a_connection_that_broke_is_no_answer_of_the_service() -> None:
    """As gRPC puts it where it breaks between the call and its first message."""
    broke = grpc.aio.AioRpcError(
        grpc.StatusCode.INTERNAL, grpc.aio.Metadata(), grpc.aio.Metadata(), details="Internal error from Core"
    )
    assert failure(ELSEWHERE, broke) == f"cannot reach the service at {ELSEWHERE}: the connection broke"
