"""Two starts of one run: which of them reports."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from monitor.service.errors import RunInUseError, RunTakenError
from monitor.service.live.clocks import ClocksApart
from monitor.service.live.runs import LiveRun, from_store
from monitor.service.recording.starts import check_start
from monitor.service.storage.stored import StoredRun
from monitor.wire import monitor_pb2 as pb
from tests.eventually import eventually
from tests.service.messages import finished, heartbeat, new_run_id, observed, opening, registration
from tests.service.running import Client, OpenStream, service_in_thread, settings_for

SETTINGS = settings_for(Path("store.db"), lost_after_seconds=60)
NOW = 1.7e9 + 1000


def start(name: str) -> pb.Start:
    return pb.Start(id=name, host=f"{name}.example", process_id=42)


def as_it_stands(*attempts: pb.Registration, **changes: Any) -> LiveRun:
    """A run whose latest attempt was heard of a moment ago."""
    stored = StoredRun(
        registrations={each.attempt: each for each in attempts},
        registered_at=NOW - 100,
        heard_at=NOW - 1,
        observation_heard_at=None,
        unsent_items=0,
        dropped_items=0,
        observation=None,
        logs=[],
        finish=None,
        observations=0,
        observed_at=[],
    )
    return replace(from_store(stored), **changes)


def check(new: pb.Registration, run: LiveRun | None, up_since: float = 0.0, sent_at: float = 0.0) -> None:
    check_start(new, sent_at, run, up_since=up_since, now=NOW, settings=SETTINGS)


FIRST = registration(attempt=2, resumed_from_step=20, start=start("first"))
SECOND = registration(attempt=2, resumed_from_step=20, start=start("second"))
ENDED = pb.Finish(outcome=pb.Finish.OUTCOME_FINISHED, step=40, finished_at=FIRST.started_at + 500)
KILLED = pb.Finish(outcome=pb.Finish.OUTCOME_FAILED, step=40, finished_at=FIRST.started_at + 500)


@pytest.mark.parametrize("new", [SECOND, registration(attempt=3, resumed_from_step=30, start=start("second"))])
@pytest.mark.parametrize("first", [FIRST, registration(attempt=2, resumed_from_step=20)], ids=["new", "old sender"])
def test_a_second_start_beside_a_live_one_is_refused(new: pb.Registration, first: pb.Registration) -> None:
    with pytest.raises(RunInUseError, match=r"trained already, by .*process.* 2023-11-14 .*last heard of 1 s ago"):
        check(new, as_it_stands(first))


@pytest.mark.parametrize("parent", [None, pb.Parent(run_id="base", step=20)])
def test_a_run_that_another_process_has_begun_is_never_begun_again(parent: pb.Parent | None) -> None:
    begins = {"parent": parent, "resumed_from_step": parent.step if parent else 0}
    first, second = (registration(start=start(name), **begins) for name in ("first", "second"))
    with pytest.raises(RunTakenError, match=r"trained already, by process 42 on first.*two trainings were given one"):
        check(second, as_it_stands(first))


def test_who_has_the_run_is_said() -> None:
    with pytest.raises(RunInUseError, match=r"process 42 on first\.example \(since 2023-11-14 22:13:20 UTC\)"):
        check(SECOND, as_it_stands(FIRST))
    with pytest.raises(RunTakenError, match=r"to its end at 2023-11-14 22:21:40 UTC.*process 42 on first\.example"):
        check(SECOND, as_it_stands(FIRST, finish=ENDED))


ACCEPTED = {
    "a new run": (SECOND, None),
    "the same start again": (FIRST, as_it_stands(FIRST)),
    "the same start, under the number that it had at first": (
        registration(attempt=2, start=start("first")),
        as_it_stands(registration(attempt=3, start=start("first"))),
    ),
    "a sender that names no start": (registration(attempt=3), as_it_stands(FIRST)),
    "after a kill that was noticed": (SECOND, as_it_stands(FIRST, finish=KILLED)),
    "after a kill, whose rest is still delivered": (SECOND, as_it_stands(FIRST, training_ended=True)),
    "after a silence": (SECOND, as_it_stands(FIRST, heard_at=NOW - 61)),
    "after a clock was set back": (SECOND, as_it_stands(FIRST, heard_at=NOW + 3600)),
    "a run that went to its end, trained on": (
        registration(attempt=3, resumed_from_step=40, start=start("second")),
        as_it_stands(FIRST, finish=ENDED),
    ),
    "a run that went to its end, from an earlier step, begun later": (
        registration(attempt=3, resumed_from_step=20, start=start("second"), started_at=ENDED.finished_at + 1),
        as_it_stands(FIRST, finish=ENDED),
    ),
    "what is delivered late of an earlier attempt": (
        registration(attempt=1, start=start("zeroth")),
        as_it_stands(FIRST),
    ),
}


@pytest.mark.parametrize(("new", "run"), ACCEPTED.values(), ids=ACCEPTED.keys())
def test_a_start_that_is_alone_is_accepted(new: pb.Registration, run: LiveRun | None) -> None:
    check(new, run)


HOUR = 3600.0
HEARD = NOW - 300
"""When the service heard that the first start had gone to its end."""


def trained_by(ahead: float, *, ended: float = HEARD, known: bool = True) -> LiveRun:
    """A run that went to its end, on a machine whose clock is so far ahead of the service's; minus for behind.

    Args:
        ended: when, by the service's clock.
        known: whether the service was there all the time, and heard how far the clock is ahead.
    """
    finish = pb.Finish(outcome=pb.Finish.OUTCOME_FINISHED, step=40, finished_at=ended + ahead)
    clocks = ClocksApart((ahead - 0.1,) * 5) if known else ClocksApart()
    return as_it_stands(FIRST, finish=finish, heard_at=HEARD, clocks=clocks)


def sent_now(began: float, ahead: float, host: str = "second") -> tuple[pb.Registration, float]:
    """A start that resumes from before the end, and when it says that it sends this; by a clock so far ahead."""
    by = pb.Start(id="second", host=f"{host}.example", process_id=43)
    return registration(attempt=3, resumed_from_step=20, start=by, started_at=began + ahead), NOW + ahead


@pytest.mark.parametrize("second", [0.0, HOUR, -HOUR])
@pytest.mark.parametrize("first", [0.0, HOUR, -HOUR])
@pytest.mark.parametrize("host", ["second", "first"])
def test_whether_a_start_began_beside_another_is_judged_by_one_clock(host: str, first: float, second: float) -> None:
    """The clocks of two machines, or one that was set between the two attempts."""
    new, sent_at = sent_now(HEARD + 10, second, host)
    check(new, trained_by(first), sent_at=sent_at)
    new, sent_at = sent_now(HEARD - 10, second, host)
    with pytest.raises(RunTakenError, match=r"to its end at 2023-11-14 22:25:(00|01) UTC, and this training began"):
        check(new, trained_by(first), sent_at=sent_at)


@pytest.mark.parametrize("ahead", [0.0, HOUR])
def test_a_start_is_judged_by_one_clock_where_nothing_was_heard_of_the_first_one_s(ahead: float) -> None:
    """As after a start of the service: the end did not come after it was heard of."""
    new, sent_at = sent_now(HEARD + 10, 0.0)
    check(new, trained_by(ahead, known=False), sent_at=sent_at)


@pytest.mark.parametrize("ahead", [0.0, HOUR, -HOUR])
def test_two_starts_of_one_machine_are_judged_by_its_clock_where_both_are_delivered_late(ahead: float) -> None:
    ended = HEARD - 24 * HOUR
    for began, beside in ((ended + 10, False), (ended - 10, True)):
        new, sent_at = sent_now(began, ahead, host="first")
        with pytest.raises(RunTakenError) if beside else nullcontext():
            check(new, trained_by(ahead, ended=ended, known=False), sent_at=sent_at)


def test_a_service_whose_clock_was_set_back_judges_a_start_by_what_the_two_say() -> None:
    run = replace(trained_by(-24 * HOUR), heard_at=NOW + 24 * HOUR)
    for began in (HEARD - 24 * HOUR + 10, HEARD - 24 * HOUR - 10):
        new, sent_at = sent_now(began, 0.0)
        with pytest.raises(RunTakenError) if began < HEARD - 24 * HOUR else nullcontext():
            check(new, run, sent_at=sent_at)


@pytest.mark.parametrize("sent_at", [0.0, -1.0, math.inf, math.nan])
def test_a_sender_that_does_not_say_when_it_sent_this_is_judged_by_what_the_two_say(sent_at: float) -> None:
    for began in (HEARD + HOUR + 10, HEARD + HOUR - 10):
        new, _sent_at = sent_now(began, 0.0)
        with pytest.raises(RunTakenError) if began < HEARD + HOUR else nullcontext():
            check(new, trained_by(HOUR), sent_at=sent_at)


def test_a_silence_while_the_service_was_down_is_none() -> None:
    run = as_it_stands(FIRST, heard_at=NOW - 3600)
    with pytest.raises(RunInUseError):
        check(SECOND, run, up_since=NOW - 59)
    check(SECOND, run, up_since=NOW - 61)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with service_in_thread(tmp_path_factory.mktemp("service") / "store.db") as client:
        yield client


def code_of(client: Client, message: pb.Registration) -> grpc.StatusCode | None:
    """How a registration is refused; None if it is not."""
    try:
        client.register(message)
    except grpc.RpcError as error:
        return error.code()
    return None


def test_two_starts_are_not_mixed_whatever_becomes_of_the_first(client: Client) -> None:
    run_id = new_run_id()
    first = registration(run_id, start=start("first"))
    second = registration(run_id, attempt=2, resumed_from_step=1, start=start("second"))
    client.register(first)
    stream = OpenStream(client)
    stream.send(opening(run_id), heartbeat())
    stream.exchange(pb.ReportRequest(item=observed(1)))
    assert code_of(client, second) is grpc.StatusCode.ABORTED
    # A connection that broke.
    assert code_of(client, first) is None
    stream.exchange(pb.ReportRequest(item=observed(2)))
    assert code_of(client, second) is grpc.StatusCode.ABORTED
    stream.exchange(pb.ReportRequest(item=finished(3, step=2)))
    stream.end()
    second.started_at = 1.7e9 + 1
    assert code_of(client, second) is grpc.StatusCode.FAILED_PRECONDITION
    run = client.run(run_id)
    assert (run.registration.attempt, run.observations, run.last_step) == (1, 2, 2)


def test_a_start_takes_the_place_of_one_whose_training_is_gone(client: Client) -> None:
    """Also while what that one left behind is still delivered."""
    run_id = new_run_id()
    client.register(registration(run_id, start=start("first")))
    second = registration(run_id, attempt=2, resumed_from_step=1, start=start("second"))
    stream = OpenStream(client)
    stream.send(opening(run_id))
    stream.exchange(pb.ReportRequest(item=observed(1)))
    assert code_of(client, second) is grpc.StatusCode.ABORTED
    stream.send(pb.ReportRequest(heartbeat=pb.Heartbeat(sent_at=1.7e9, unsent_items=5, training_ended=True)))
    eventually(lambda: code_of(client, second) is None)
    stream.exchange(pb.ReportRequest(item=observed(2)))
    stream.end()
    run = client.run(run_id)
    # Step 2 of the first one is behind the step that the second one goes on from.
    assert (run.registration.attempt, run.observations, run.last_step) == (2, 1, 1)


def test_a_restarted_service_waits_for_the_start_that_it_had(tmp_path: Path) -> None:
    run_id = new_run_id()
    with service_in_thread(tmp_path / "store.db") as client:
        client.register(registration(run_id, start=start("first")))
    with service_in_thread(tmp_path / "store.db") as client:
        second = registration(run_id, attempt=2, resumed_from_step=1, start=start("second"))
        assert code_of(client, second) is grpc.StatusCode.ABORTED
        assert code_of(client, registration(run_id, start=start("first"))) is None
    with service_in_thread(tmp_path / "store.db", lost_after_seconds=0.1) as client:
        eventually(lambda: code_of(client, second) is None)
