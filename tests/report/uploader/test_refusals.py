"""What a service with smaller limits refuses is told as refused for good, and delivered once the service is changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc.aio import AioRpcError, Metadata

from monitor.errors import ReportingError
from monitor.report.push import push
from monitor.report.reporter import Reporter
from monitor.report.uploader.failures import failure_of
from tests.eventually import eventually
from tests.report.attempts import NOWHERE, ObservedModel, end_uploader, report_some, spooled, steps
from tests.service.messages import logged, registration
from tests.service.messages import observed as observed_item
from tests.service.running import Client, service_in_thread


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of a service that takes less than others."""
    path = tmp_path_factory.mktemp("service") / "store.db"
    with service_in_thread(path, max_labels=1, max_request_bytes=4096) as client:
        yield client


def test_once_the_service_is_changed_what_it_refused_is_delivered(
    observed: ObservedModel, directory: Path, small: Client, client: Client
) -> None:
    target = small.listening.grpc_address
    reporter = Reporter(observed.registration(labels={"a": "1", "b": "2"}), directory, target)
    report_some(reporter, observed, 2)
    reporter.finish(2)
    assert not reporter.close(timeout=60)
    assert spooled(reporter).refused
    assert spooled(reporter).problem.startswith(f"the service at {target} answers INVALID_ARGUMENT: 2 labels given")
    assert "until then this is refused, too" in reporter.why_undelivered()
    with pytest.raises(ReportingError, match=r"this service allows 1.*--max-labels"):
        push(directory, target, patience_seconds=10)
    # A service that was started again with a larger limit, for all that the sender sees.
    assert push(directory, client.listening.grpc_address, patience_seconds=10) == 3
    assert steps(client, reporter.key.run_id) == [1, 2]
    assert not spooled(reporter).refused


def test_a_service_out_of_reach_is_no_refusal(observed: ObservedModel, directory: Path) -> None:
    reporter = Reporter(observed.registration(), directory, NOWHERE)
    eventually(lambda: spooled(reporter).problem != "")
    assert not spooled(reporter).refused
    reporter.close(timeout=0)
    assert f"For what is left then: sparsity-monitor push {directory} --target {NOWHERE}" in reporter.why_undelivered()
    end_uploader(reporter)


def test_who_insists_on_the_service_is_told_what_helps(observed: ObservedModel, directory: Path, small: Client) -> None:
    reporter = Reporter(observed.registration(labels={"a": "1", "b": "2"}), directory, small.listening.grpc_address)
    with pytest.raises(ReportingError, match=r"2 labels given.*Change that before you train"):
        reporter.wait_until_registered(60)
    reporter.close(timeout=0)


def test_push_counts_what_arrived_not_what_was_refused(
    observed: ObservedModel, directory: Path, small: Client, caplog: pytest.LogCaptureFixture
) -> None:
    reporter = Reporter(observed.registration(), directory, None)
    report_some(reporter, observed, 2)
    reporter.log(2, {f"{'a long name ' * 40}{number}": 0.5 for number in range(20)})
    reporter.finish(2)
    reporter.close(timeout=0)
    assert push(directory, small.listening.grpc_address, patience_seconds=10) == 3
    assert any("is never sent" in message and "--max-request-bytes" in message for message in caplog.messages)
    attempt = spooled(reporter)
    assert (attempt.rejected, attempt.dropped, attempt.unsent) == (1, 1, 0)
    assert "the service takes at most 4096" in attempt.rejection


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INVALID_ARGUMENT])
def test_what_a_service_says_does_not_act_on_a_terminal(code: grpc.StatusCode) -> None:
    error = AioRpcError(code, Metadata(), Metadata(), details="refused \x1b[2J\r\n\u202e")
    assert failure_of("localhost:1", error).text.endswith("refused \\x1b[2J\\r\\n\\u202e")


def test_of_the_log_of_an_earlier_sender_what_fits_is_stored(client: Client) -> None:
    client.register(registration("earlier sender"))
    metrics = {f"metric {number:03}": float(number) for number in range(300)} | {"loss": 0.5, "x" * 600: 1.0}
    answered = client.send("earlier sender", [observed_item(1), logged(2, **metrics)])
    assert not [answer for answer in answered if answer.HasField("rejection")]
    kept = client.history("earlier sender")[-1].item.training_log.metrics
    assert dict(kept) == {"loss": 0.5} | {f"metric {number:03}": float(number) for number in range(199)}
