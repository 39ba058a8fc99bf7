"""The way of an observation from this machine to the service: name, proxy, port, protocol."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator, Sequence
from dataclasses import replace

import grpc

from monitor.commands.doctor.finding import Finding, are_fine
from monitor.errors import ConfigurationError
from monitor.report.target import check_target
from monitor.wire import PROTOCOL_VERSION
from monitor.wire.addresses import addresses, each_of
from monitor.wire.channel import NO_ACCESS, STANDS_BY, failure, open_channel, proxy_of
from monitor.wire.credentials import call_metadata
from monitor.wire.monitor_pb2 import ListRunsRequest, RegisterRunRequest
from monitor.wire.monitor_pb2_grpc import MonitorServiceStub

_CONNECT_SECONDS = 5.0
_CALL_SECONDS = 10.0
_SERVE = "Start the service there, `sparsity-monitor serve --grpc-address HOST:PORT`"


def way_to(target: str) -> Iterator[Finding]:
    """Go the way to a service, up to what is in it that keeps everything behind it from being seen."""
    try:
        target = check_target(target)
    except ConfigurationError as error:
        yield Finding("target", "fail", str(error))
        return
    yield Finding("target", "ok", target)
    targets = each_of(target)
    yield from _way_to(target) if len(targets) == 1 else _ways_to(targets)


def _ways_to(targets: Sequence[str]) -> Iterator[Finding]:
    """Go the way to each of several services, of which one has to take what is reported."""
    ways = [list(_way_to(target)) for target in targets]
    one_serves = any(are_fine(way) for way in ways)
    for target, way in zip(targets, ways, strict=True):
        for each in way:
            named = replace(each, found=f"{target}: {each.found}")
            yield _of_the_others(named) if one_serves and each.state == "fail" else named


def _of_the_others(finding: Finding) -> Finding:
    if STANDS_BY in finding.found:
        return replace(finding, state="ok", to_do="")
    return replace(finding, state="warn", to_do=f"{finding.to_do} Until then, nobody takes over.".lstrip())


def _way_to(target: str) -> Iterator[Finding]:
    if variable := proxy_of(target):
        yield _proxied(variable)
    elif found := addresses(target):
        yield Finding("proxy", "ok", "none: the service is dialled directly")
        findings = [finding for host, port in found for finding in _to_port(host, port)]
        if len(found) > 1:
            # One of them is enough, as gRPC tells in the end.
            findings = [replace(each, state="warn") if each.state == "fail" else each for each in findings]
        yield from findings
        if findings[-1].state == "fail":
            return
    yield _protocol(target)


def _proxied(variable: str) -> Finding:
    return Finding(
        "proxy",
        "warn",
        f"gRPC dials through the proxy of {variable}, which has to let CONNECT pass",
        "If it should be dialled directly, add its host to no_proxy in the environment of the training.",
    )


def _to_port(host: str, port: int) -> Iterator[Finding]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        yield Finding(
            "name",
            "fail",
            f"{host} is not known here: {error}",
            "Check how it is written, or give its address; in a container, names may differ from those outside.",
        )
        return
    known = list(dict.fromkeys(str(address[0]) for *_, address in found))
    yield Finding("name", "ok", f"{host} is {', '.join(known)}")
    yield _port(host, port)


def _port(host: str, port: int) -> Finding:
    try:
        with socket.create_connection((host, port), timeout=_CONNECT_SECONDS):
            return Finding("port", "ok", f"something listens at port {port}")
    except TimeoutError:
        to_do = "A firewall or a network policy may drop what is sent there: open the port, or use an SSH tunnel."
        return Finding("port", "fail", f"port {port} does not answer within {_CONNECT_SECONDS:g} seconds", to_do)
    except OSError as error:
        to_do = "Check address and port, and the network between."
        if error.errno == errno.ECONNREFUSED:
            to_do = f"{_SERVE}: by default it listens to its own machine alone, 0.0.0.0:{port} to all, with tokens."
        return Finding("port", "fail", f"port {port} cannot be reached: {error.strerror or error}", to_do)


def _protocol(target: str) -> Finding:
    metadata = call_metadata(target)
    with open_channel(target, [("grpc.max_receive_message_length", -1)]) as channel:
        stub = MonitorServiceStub(channel)
        try:
            # Registers nothing: the versions are compared first, and a run without an identity is none.
            request = RegisterRunRequest(protocol_version=PROTOCOL_VERSION)
            stub.RegisterRun(request, timeout=_CALL_SECONDS, metadata=metadata)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.INVALID_ARGUMENT:
                return Finding("protocol", "fail", failure(target, error), _to_do(error))
        try:
            runs = stub.ListRuns(ListRunsRequest(), timeout=_CALL_SECONDS, metadata=metadata).runs
        except grpc.RpcError as error:
            # A token that only reports is all that a training needs.
            if error.code() is not grpc.StatusCode.PERMISSION_DENIED:
                return Finding("protocol", "fail", failure(target, error), _to_do(error))
            known = "and a token that only reports"
        else:
            known = "with 1 run" if len(runs) == 1 else f"with {len(runs)} runs"
    return Finding("protocol", "ok", f"sparsity-monitor, protocol version {PROTOCOL_VERSION}, {known}")


def _to_do(error: grpc.RpcError) -> str:
    if error.code() in NO_ACCESS or error.code() is grpc.StatusCode.FAILED_PRECONDITION:
        return ""
    if str(error.details()).startswith(STANDS_BY):
        return "Name the service that has the store, too: HOST-A:PORT,HOST-B:PORT finds the one that serves."
    return "Give the gRPC address of the service, by default port 50051, and see what its log says."
