"""A target of several addresses, one of which refuses for good: what is only that address's, and what is the run's."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import grpc
import pytest

from monitor.errors import ReportingError
from monitor.report.push import push
from monitor.report.reporter import Reporter
from monitor.report.spool.attempt import AttemptKey, SpooledAttempt
from monitor.report.spool.items import Spool
from monitor.report.uploader.tries import Uploader
from monitor.service.access.scopes import Scope
from monitor.service.care.tokens import create
from monitor.service.errors import ProtocolVersionError
from monitor.service.ingest.calls import _check_protocol, _status
from monitor.wire.monitor_pb2 import RegisterRunRequest, RegisterRunResponse
from monitor.wire.monitor_pb2_grpc import MonitorServiceServicer, add_MonitorServiceServicer_to_server
from tests.report.attempts import NOWHERE, ObservedModel, report_some, steps
from tests.service.messages import finished, new_run_id, observed, registration
from tests.service.running import Client, service_in_thread


class _OfAnotherVersion(MonitorServiceServicer):
    """Answers as a service does that speaks another version of the protocol."""

    def RegisterRun(  # noqa: N802
        self, request: RegisterRunRequest, context: grpc.ServicerContext
    ) -> RegisterRunResponse:
        try:
            _check_protocol(request.protocol_version + 1)
        except ProtocolVersionError as error:
            context.abort(*_status(error))
        return RegisterRunResponse()


@contextmanager
def _serving(servicer: MonitorServiceServicer | None) -> Iterator[str]:
    with ThreadPoolExecutor(2) as threads:
        server = grpc.server(threads)
        if servicer is not None:
            add_MonitorServiceServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"127.0.0.1:{port}"
        server.stop(None).wait()


@pytest.fixture(scope="module")
def other_program() -> Iterator[str]:
    """A gRPC server that is no service of ours."""
    with _serving(None) as address:
        yield address


@pytest.fixture(scope="module")
def other_version() -> Iterator[str]:
    with _serving(_OfAnotherVersion()) as address:
        yield address


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service that asks for a token, which these tests do not have."""
    store = tmp_path_factory.mktemp("closed") / "store.db"
    create(f"sqlite:///{store}", "other", [Scope.WRITE], "1d")
    with service_in_thread(store) as client:
        yield client.listening.grpc_address


@pytest.fixture
def run_id(directory: Path) -> str:
    """A run that has ended, of which nothing was delivered."""
    key = AttemptKey(new_run_id(), 1)
    with closing(Spool(directory)) as spool:
        spool.begin(key, registration(key.run_id).SerializeToString())
        items = [observed(1), observed(2), finished(3, step=2)]
        spool.append(key, [(item.sequence, item.SerializeToString()) for item in items], finished=True)
    return key.run_id


def _spooled(directory: Path) -> tuple[SpooledAttempt, dict[str, str]]:
    with closing(Spool(directory)) as spool:
        return spool.attempts()[0], spool.refusing()


def _deliver(directory: Path, *addresses: str) -> list[str]:
    return asyncio.run(Uploader(directory, ",".join(addresses), linger_seconds=60).run())


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("other_program", "no service of sparsity-monitor"),
        ("other_version", "the sender speaks protocol version"),
        ("closed", "does not let this in"),
    ],
)
def test_what_only_one_address_refuses_another_one_takes_and_the_reason_is_kept(
    address: str,
    reason: str,
    run_id: str,
    directory: Path,
    client: Client,
    request: pytest.FixtureRequest,
    caplog: pytest.LogCaptureFixture,
) -> None:
    refusing: str = request.getfixturevalue(address)
    assert _deliver(directory, refusing, client.listening.grpc_address) == []
    assert steps(client, run_id) == [1, 2]
    attempt, noted = _spooled(directory)
    assert (attempt.problem, attempt.refused) == ("", False)
    assert [*noted] == [refusing]
    assert reason in noted[refusing]
    assert len([message for message in caplog.messages if refusing in message]) == 1


def test_a_training_is_told_once_which_address_refuses_and_goes_on_with_the_other(
    other_program: str, observed: ObservedModel, directory: Path, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    target = f"{other_program},{client.listening.grpc_address}"
    reporter = Reporter(observed.registration(), directory, target)
    reporter.wait_until_registered(60)
    report_some(reporter, observed, 3)
    reporter.finish(3)
    assert reporter.close(timeout=60)
    assert steps(client, reporter.key.run_id) == [1, 2, 3]
    (message,) = [message for message in caplog.messages if other_program in message]
    assert "is no service of sparsity-monitor" in message
    assert f"while that lasts, {other_program} cannot take over" in message


def test_where_every_address_refuses_the_run_does_and_each_reason_is_told(
    other_program: str, other_version: str, run_id: str, directory: Path
) -> None:
    (problem,) = _deliver(directory, other_program, other_version)
    attempt, _ = _spooled(directory)
    assert attempt.refused
    assert attempt.problem in problem
    assert f"what answers at {other_program} is no service of sparsity-monitor" in problem
    assert f"the service at {other_version} answers FAILED_PRECONDITION: the sender speaks protocol" in problem


def test_an_address_that_refuses_does_not_end_the_waiting_for_one_that_is_away(
    other_program: str, run_id: str, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = iter(range(3))
    monkeypatch.setattr("monitor.report.uploader.tries.random.uniform", lambda *_: 0.0)
    monkeypatch.setattr(Uploader, "_has_given_up", lambda _, __: next(tries, None) is None)
    _deliver(directory, other_program, NOWHERE)
    assert next(tries, None) is None
    attempt, _ = _spooled(directory)
    assert not attempt.refused
    assert attempt.problem.startswith(f"what answers at {other_program} is no service")
    assert f"; cannot reach the service at {NOWHERE}" in attempt.problem


def test_what_is_wrong_with_the_run_is_told_by_the_first_service_that_answers(
    directory: Path, client: Client, tmp_path: Path
) -> None:
    """Another one stands by, and would hide it."""
    key = AttemptKey(new_run_id(), 1)
    with closing(Spool(directory)) as spool:
        spool.begin(key, registration(key.run_id, tolerances=[float("nan")]).SerializeToString())
    (problem,) = _deliver(directory, client.listening.grpc_address, NOWHERE)
    attempt, noted = _spooled(directory)
    assert attempt.refused
    assert "INVALID_ARGUMENT" in problem
    assert noted == {}


def test_push_asks_every_address_before_it_gives_up(
    closed: str, other_program: str, run_id: str, directory: Path, client: Client
) -> None:
    with pytest.raises(
        ReportingError, match=rf"at {closed} does not let this in.*; what answers at {other_program} is"
    ):
        push(directory, f"{closed},{other_program}", patience_seconds=60)
    assert not _spooled(directory)[0].refused
    assert push(directory, f"{NOWHERE},{client.listening.grpc_address}", patience_seconds=0) == 3
    assert _spooled(directory)[1] == {}
