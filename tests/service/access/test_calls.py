"""Tokens over gRPC: what a real server answers to those that are missing, wrong, over, or allow something else."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from monitor.service.access.refusals import PER_MINUTE
from monitor.service.access.scopes import Scope
from monitor.service.care.tokens import create, revoke
from monitor.wire import monitor_pb2 as pb
from tests.eventually import eventually
from tests.service.access.closed import EXPIRED, REVOKED, UNKNOWN, Closed, closed_service
from tests.service.messages import observed, register_request, registration, stream_of
from tests.service.running import service_in_thread

WRITE, READ, METRICS, ADMINISTER = (scope.value for scope in Scope)


def _register(closed: Closed, token: str | None) -> object:
    request = register_request(registration("a run"))
    return closed.client.stub.RegisterRun(request, timeout=60, metadata=closed.metadata(token))


def _report(closed: Closed, token: str | None) -> object:
    _register(closed, WRITE)
    requests = iter(stream_of("a run", [observed(1, step=1)]))
    return list(closed.client.stub.Report(requests, timeout=60, metadata=closed.metadata(token)))


def _list(closed: Closed, token: str | None) -> object:
    return closed.client.stub.ListRuns(pb.ListRunsRequest(), timeout=60, metadata=closed.metadata(token))


def _history(closed: Closed, token: str | None) -> object:
    _register(closed, WRITE)
    request = pb.ReadHistoryRequest(run_id="a run")
    return list(closed.client.stub.ReadHistory(request, timeout=60, metadata=closed.metadata(token)))


CALLS = [(_register, WRITE), (_report, WRITE), (_list, READ), (_history, READ)]


@pytest.mark.parametrize(("call", "scope"), CALLS)
def test_each_call_takes_the_tokens_that_allow_it_and_no_others(
    call: Callable[[Closed, str | None], object], scope: str, closed: Closed
) -> None:
    allowed = {scope, ADMINISTER}
    for token in allowed:
        call(closed, token)
    for token in {WRITE, READ, METRICS} - allowed:
        with pytest.raises(grpc.RpcError, match=f"'{token}' has the scope {token}, and this needs {scope}") as refused:
            call(closed, token)
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize("call", [call for call, _ in CALLS])
@pytest.mark.parametrize(
    ("token", "words"),
    [
        (None, "no token was given, and this needs one with the scope"),
        (UNKNOWN, "the token that was given is not known here"),
        (EXPIRED, "the token 'expired' expired at 20"),
        (REVOKED, "the token 'revoked' was revoked at 20"),
    ],
)
def test_a_token_that_is_no_good_opens_no_call(
    call: Callable[[Closed, str | None], object], token: str | None, words: str, closed: Closed
) -> None:
    with pytest.raises(grpc.RpcError, match=words) as refused:
        call(closed, token)
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_whoever_starts_services_need_not_log_in(closed: Closed) -> None:
    answer = health_pb2_grpc.HealthStub(closed.client.channel).Check(health_pb2.HealthCheckRequest(), timeout=60)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def _described(closed: Closed, token: str | None) -> list[str]:
    stub = reflection_pb2_grpc.ServerReflectionStub(closed.client.channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    answers = stub.ServerReflectionInfo(iter([request]), timeout=60, metadata=closed.metadata(token))
    return [service.name for answer in answers for service in answer.list_services_response.service]


def test_a_closed_service_describes_itself_only_where_that_was_asked_for(closed: Closed, tmp_path: Path) -> None:
    with pytest.raises(grpc.RpcError) as absent:
        _described(closed, ADMINISTER)
    assert absent.value.code() is grpc.StatusCode.UNIMPLEMENTED
    with closed_service(tmp_path, reflection=True) as telling:
        assert "sparsity_monitor.v1.MonitorService" in _described(telling, READ)
        with pytest.raises(grpc.RpcError) as refused:
            _described(telling, WRITE)
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_a_service_closes_when_its_first_token_is_made_and_knows_a_new_one_at_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    with service_in_thread(tmp_path / "store.db") as client:
        service = Closed(client, url, {})
        _list(service, None)
        service.tokens[READ] = create(url, "reader", [Scope.READ], None)[0]

        def is_closed() -> bool:
            try:
                _list(service, None)
            except grpc.RpcError:
                return True
            return False

        eventually(is_closed)
        _list(service, READ)
        service.tokens[ADMINISTER] = create(url, "boss", [Scope.ADMINISTER], None)[0]
        _list(service, ADMINISTER)
        # Nor does it open again when the last one is revoked.
        revoke(url, "reader")
        revoke(url, "boss")
        eventually(lambda: not _goes_through(lambda: _list(service, READ)))
        assert not _goes_through(lambda: _list(service, None))


def _goes_through(call: Callable[[], object]) -> bool:
    try:
        call()
    except grpc.RpcError:
        return False
    return True


def test_a_stream_ends_when_its_token_is_revoked_and_what_came_before_is_kept(closed: Closed) -> None:
    secret, _ = create(closed.store_url, "midway", [Scope.WRITE], None)
    closed.tokens["midway"] = secret
    request = register_request(registration("midway"))
    register = closed.client.stub.RegisterRun
    # At once, or a moment later where too many others failed before.
    eventually(lambda: _goes_through(lambda: register(request, timeout=60, metadata=closed.metadata("midway"))))
    stored: list[int] = []

    def requests() -> Iterator[pb.ReportRequest]:
        yield from stream_of("midway", [observed(1, step=1)])
        eventually(lambda: stored == [1])
        revoke(closed.store_url, "midway")
        while True:
            yield pb.ReportRequest(heartbeat=pb.Heartbeat())

    answers = closed.client.stub.Report(requests(), timeout=60, metadata=closed.metadata("midway"))
    with pytest.raises(grpc.RpcError, match="the token 'midway' was revoked at") as ended:
        stored.extend(answer.acknowledgement.sequence for answer in answers)
    assert ended.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_failures_are_logged_without_the_token_and_only_so_many(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with closed_service(tmp_path) as service, caplog.at_level(logging.WARNING, "monitor.service.access"):
        for _ in range(PER_MINUTE + 5):
            assert not _goes_through(lambda: _list(service, UNKNOWN))
        with pytest.raises(grpc.RpcError, match="There were many such calls from "):
            _list(service, UNKNOWN)
        # Somebody else behind the same address is let in all the while.
        _list(service, READ)
    refused = [message for message in caplog.messages if message.startswith("refused: 127.0.0.1 to ")]
    assert len(refused) == PER_MINUTE
    assert caplog.messages[-1].endswith("for a minute no more is logged of it")
    assert "ListRuns" in refused[0]
    assert not [message for message in caplog.messages if any(token in message for token in service.tokens.values())]
