"""Messages and requests that are nearly right, by hypothesis: each is answered, and none is met with a bug."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

import grpc
import schemathesis
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from schemathesis.generation import GenerationMode

from tests.service.messages import finished, logged, observed, register_request, registration, stream_of
from tests.service.running import Client

_SERVICE = "/sparsity_monitor.v1.MonitorService"
_REGISTER = register_request(registration("mutated")).SerializeToString()
_STREAM = [
    request.SerializeToString()
    for request in stream_of("mutated", [observed(1), logged(2, loss=0.5), observed(3), finished(4)])
]
_PATHS = (
    "/api/runs/{}",
    "/api/runs/{}/history?after_step={}",
    "/api/v1/runs/{}",
    "/api/v1/runs/mutated/history?{}={}",
    "/api/v1/runs/mutated/history?format={}&fields={}",
    "/api/v1/compare?run=mutated&run={}&field={}",
    "/runs/{}",
    "/metrics?{}",
    "/{}",
    "/?{}={}",
)


@st.composite
def _mutated(draw: st.DrawFn, message: bytes) -> bytes:
    """A message of which some bytes are others, are gone, or are there twice."""
    mutated = bytearray(message)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(mutated) - 1)))
        match draw(st.sampled_from(["replace", "remove", "repeat", "cut"])):
            case "replace":
                mutated[at : at + 1] = draw(st.binary(min_size=1, max_size=8))
            case "remove":
                del mutated[at : at + draw(st.integers(1, 16))]
            case "repeat":
                mutated[at:at] = mutated[at : at + 64]
            case "cut":
                del mutated[at:]
    return bytes(mutated)


def send_mutated(client: Client, examples: int, beginning: int = 0) -> int:
    """Send so many of each kind, and raise if the service answers one of them with an error of its own.

    Returns how many were sent.

    Args:
        beginning: what they are made from; the same number makes the same ones.
    """
    sent = 0
    client.register(registration("mutated"))
    register = client.channel.unary_unary(f"{_SERVICE}/RegisterRun")
    report = client.channel.stream_stream(f"{_SERVICE}/Report")
    limited = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )

    @seed(beginning)
    @limited
    @given(_mutated(_REGISTER))
    def registrations(message: bytes) -> None:
        nonlocal sent
        sent += 1
        _call(lambda: register(message, timeout=60))

    @seed(beginning)
    @limited
    @given(st.data())
    def streams(data: st.DataObject) -> None:
        nonlocal sent
        sent += 1
        which = data.draw(st.integers(0, len(_STREAM) - 1))
        messages = [*_STREAM[:which], data.draw(_mutated(_STREAM[which])), *_STREAM[which + 1 :]]
        _call(lambda: list(report(iter(messages), timeout=60)))

    @seed(beginning)
    @limited
    @given(st.sampled_from(_PATHS), st.text(max_size=40), st.text(max_size=20))
    def requests(path: str, first: str, second: str) -> None:
        nonlocal sent
        sent += 1
        answer = client.http.get(path.format(*(quote(each, safe="") for each in (first, second))))
        assert answer.status_code < 500, answer.text

    for each in (registrations, streams, requests):
        each()
    return sent


def send_described(client: Client, examples: int, beginning: int = 0) -> int:
    """Send so many requests, by schemathesis, to each address that the interface describes, right and wrong ones.

    Returns how many were sent.
    """
    sent = 0
    description = schemathesis.openapi.from_url(f"{client.http.base_url}/api/openapi.json")
    for found in description.get_all_operations():
        operation = found.ok()

        @seed(beginning)
        @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(operation.as_strategy(GenerationMode.POSITIVE) | operation.as_strategy(GenerationMode.NEGATIVE))
        def requests(case: schemathesis.Case) -> None:
            nonlocal sent
            sent += 1
            case.call_and_validate()

        requests()
    return sent


def _call(call: Callable[[], object]) -> None:
    try:
        call()
    except grpc.RpcError as error:
        # What gRPC says of whatever was not foreseen.
        if error.code() is grpc.StatusCode.UNKNOWN:
            raise
