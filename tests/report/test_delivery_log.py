from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from monitor.report.delivery_log import DeliveryLog
from monitor.report.spool import AttemptKey, SpooledAttempt

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


def test_a_problem_that_comes_back_is_logged_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log = DeliveryLog(tmp_path, "localhost:1")
    for problem in ("cannot reach the service", "", "cannot reach the service"):
        log.update(replace(ATTEMPT, problem=problem))
    assert ["connected to" in message for message in caplog.messages] == [False, True, False]


def test_lost_items_are_logged_at_the_first_and_when_they_have_doubled(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = DeliveryLog(tmp_path, "localhost:1")
    for dropped in range(9):
        log.update(replace(ATTEMPT, dropped=dropped))
    assert [int(message.split()[1]) for message in caplog.messages] == [1, 2, 4, 8]
