"""Bytes that are no message are refused in words, and the log stays as it was."""

from __future__ import annotations

import logging
from typing import Any

import grpc
import pytest

from tests.service.messages import observed, registration, stream_of
from tests.service.running import Client

SERVICE = "/sparsity_monitor.v1.MonitorService"
GARBAGE = [b"\xff" * 20, b"\x0a\xff", b"GET / HTTP/1.1\r\n\r\n"]


def _bytes_to(client: Client) -> Any:
    # Types know channels with messages alone.
    return client.channel


def _refused(error: grpc.RpcError) -> None:
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "no request of this service" in str(error.details())


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("method", ["RegisterRun", "ListRuns"])
def test_a_single_request(client: Client, method: str, garbage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), pytest.raises(grpc.RpcError) as error:
        _bytes_to(client).unary_unary(f"{SERVICE}/{method}")(garbage, timeout=60)
    _refused(error.value)
    assert caplog.records == []


def test_a_single_request_with_several_answers(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), pytest.raises(grpc.RpcError) as error:
        list(_bytes_to(client).unary_stream(f"{SERVICE}/ReadHistory")(GARBAGE[0], timeout=60))
    _refused(error.value)
    assert caplog.records == []


@pytest.mark.parametrize("garbage", GARBAGE)
def test_a_stream_ends_with_it_and_goes_on_with_another(
    client: Client, run_id: str, garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    client.register(registration(run_id))
    before = [request.SerializeToString() for request in stream_of(run_id, [observed(1)])]
    with caplog.at_level(logging.WARNING), pytest.raises(grpc.RpcError) as error:
        list(_bytes_to(client).stream_stream(f"{SERVICE}/Report")(iter([*before, garbage]), timeout=60))
    _refused(error.value)
    assert caplog.records == []
    assert client.send(run_id, [observed(1), observed(2)])[-1].acknowledgement.sequence == 2
