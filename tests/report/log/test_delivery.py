from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from monitor.report.log.delivery import DeliveryLog, undelivered
from monitor.report.spool.attempt import AttemptKey, SpooledAttempt
from monitor.service.errors import StoreError
from monitor.wire.channel import failure
from tests.service.messages import registration
from tests.service.running import Client, service_in_thread

ATTEMPT = SpooledAttempt(
    AttemptKey("run", 1),
    registration=b"",
    finished=False,
    registered=True,
    dropped=0,
    last_sequence=9,
    unsent=9,
    problem="",
)


def test_a_problem_is_logged_once_whatever_address_of_the_host_was_tried_last(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = DeliveryLog(tmp_path, "localhost:1")
    for detail in ("ipv4:127.0.0.1:1: refused", "ipv6:[::1]:1: refused", "ipv4:127.0.0.1:1: refused"):
        log.update(replace(ATTEMPT, problem=f"cannot reach the service at localhost:1: {detail}"))
    assert len(caplog.records) == 1


def test_what_a_service_says_of_itself_is_told_after_a_connection_that_broke(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a store that fails: the stream breaks first, and why is known with the next try."""
    monkeypatch.setattr("monitor.service.storage.sqlite_file.held.HeldFile.confirm", _fail)
    with service_in_thread(tmp_path / "store.db") as client:
        target = client.listening.grpc_address
        problem = _problem(client, target)
        log = DeliveryLog(tmp_path, target)
        for each in (f"cannot reach the service at {target}: the connection broke", problem):
            log.update(replace(ATTEMPT, problem=each))
    assert problem == f"the service at {target} takes nothing now: the store is full"
    assert [problem in message for message in caplog.messages if "Training goes on" in message] == [False, True]


def _fail(*_: object) -> None:
    raise StoreError("the store is full")


def _problem(client: Client, target: str) -> str:
    """What is said of a run that the service cannot register."""
    with pytest.raises(grpc.RpcError) as failed:
        client.register(registration("run"))
    return failure(target, failed.value)


def test_a_service_that_comes_and_goes_is_told_of_once_a_minute(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("monitor.report.log.delivery.time.monotonic", lambda: now[0])
    caplog.set_level(logging.INFO)
    log = DeliveryLog(tmp_path, "localhost:1")
    for second in range(0, 90, 10):
        now[0] = 100.0 + second
        log.update(replace(ATTEMPT, problem="cannot reach the service" if second % 20 == 0 else ""))
    assert ["connected to" in message for message in caplog.messages] == [False, True, False, True]


def test_lost_items_are_logged_at_the_first_and_when_they_have_doubled(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = DeliveryLog(tmp_path, "localhost:1")
    for dropped in range(9):
        log.update(replace(ATTEMPT, dropped=dropped))
    assert [int(message.split()[1]) for message in caplog.messages] == [1, 2, 4, 8]


def test_each_kind_of_loss_is_told_with_its_own_reason(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = DeliveryLog(tmp_path, "localhost:1")
    log.update(replace(ATTEMPT, dropped=1))
    log.lose("lost because the disk is slower than the training")
    log.update(replace(ATTEMPT, dropped=2))
    log.update(replace(ATTEMPT, dropped=3, rejected=1, rejection="the step is too large."))
    full, slow, refused = caplog.messages
    assert "1 left out because the spool" in full
    assert "`spool_max_bytes`" in full
    assert "refused" not in full
    assert "1 lost because the disk is slower than the training; 1 left out because the spool" in slow
    assert "1 refused by the service, the last because the step is too large; 1 left out because" in refused


def test_no_more_is_told_to_be_lost_with_a_spool_than_did_not_arrive(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = DeliveryLog(tmp_path, "localhost:1")
    log.lose("lost with the spool", 9)
    log.lose("never lost", 0)
    for dropped in (0, 3, 12):
        log.update(replace(ATTEMPT, dropped=dropped))
    some, all_of_them = caplog.messages
    assert some.endswith("3 items of this run are lost so far: 3 lost with the spool.")
    assert "12 items of this run are lost so far: 9 lost with the spool; 3 left out because the spool" in all_of_them


@pytest.mark.parametrize(
    ("rejected", "lost_here", "kind"), [(2, 0, "refused by the service"), (0, 2, "no message could be made")]
)
def test_the_spool_is_not_blamed_for_what_others_lose(
    rejected: int, lost_here: int, kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = DeliveryLog(tmp_path, "localhost:1")
    for _ in range(lost_here):
        log.lose("lost because no message could be made of them, which is logged with its error")
    log.update(replace(ATTEMPT, dropped=2, rejected=rejected, rejection="it is too large"))
    (message,) = caplog.messages
    assert kind in message
    assert "spool" not in message


def test_a_refusal_is_told_as_one_and_what_to_do_depends_on_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    refused = replace(ATTEMPT, refused=True, problem="the service at localhost:1 answers INVALID_ARGUMENT: too many.")
    DeliveryLog(tmp_path, "localhost:1").update(refused)
    (message,) = caplog.messages
    assert "too many. Training goes on, but none of it is shown there before that is changed" in message
    directory = tmp_path / "out put"
    push = f"sparsity-monitor push '{directory}' --target localhost:1"
    assert undelivered(refused, directory, "localhost:1").endswith(f"until then this is refused, too: {push}")
    away = replace(ATTEMPT, problem="cannot reach the service at localhost:1: refused")
    assert undelivered(away, directory, "localhost:1").endswith(f"For what is left then: {push}")
    assert undelivered(ATTEMPT, directory, "localhost:1").startswith("not everything has reached localhost:1 yet")
