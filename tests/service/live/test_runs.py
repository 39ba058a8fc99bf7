from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.service.live.runs import LiveRun, LiveRuns, from_store
from monitor.service.quantities.run_state import RunState
from monitor.service.settings import ServiceSettings
from monitor.service.storage.store import Store
from monitor.wire import monitor_pb2 as pb
from tests.service.messages import changed, finished, logged, observed, registration
from tests.service.storing import add

NOW = 1.75e9
SETTINGS = ServiceSettings(lost_after_seconds=10, stalled_after_seconds=60)


class Recorded:
    """A store and the live state beside it, written as the recorder writes them."""

    def __init__(self, path: Path) -> None:
        self.store = Store(f"sqlite:///{path}")
        self.live = LiveRuns([])

    def register(self, attempt: int = 1, resumed_from_step: int = 0, now: float = NOW) -> None:
        self.store.register(registration("run", attempt, resumed_from_step=resumed_from_step), now, 10)
        self.live.put(from_store(self.store.run("run")))

    def add(self, *items: pb.Item, attempt: int = 1, now: float = NOW, heartbeat: pb.Heartbeat | None = None) -> None:
        new = add(self.store, "run", attempt, items, heartbeat, now)
        stored = [item for item in items if item.sequence in new]
        observed = any(item.HasField("observation") for item in items)
        self.live.record("run", attempt, stored, observed=observed, heartbeat=heartbeat, now=now)

    @property
    def run(self) -> LiveRun:
        run = self.live.get("run")
        assert run is not None
        return run


@pytest.fixture
def recorded(tmp_path: Path) -> Iterator[Recorded]:
    recorded = Recorded(tmp_path / "store.db")
    recorded.register()
    yield recorded
    recorded.store.close()


def test_a_run_runs_while_observations_arrive(recorded: Recorded) -> None:
    recorded.add(observed(1), now=NOW + 50)
    assert recorded.run.state(NOW + 55, SETTINGS) is RunState.RUNNING


def test_a_sender_without_observations_is_stalled(recorded: Recorded) -> None:
    recorded.add(observed(1), now=NOW + 50)
    recorded.add(heartbeat=pb.Heartbeat(), now=NOW + 115)
    assert recorded.run.state(NOW + 115, SETTINGS) is RunState.STALLED
    recorded.add(observed(2), now=NOW + 116)
    assert recorded.run.state(NOW + 116, SETTINGS) is RunState.RUNNING


def test_a_silent_sender_is_lost_until_it_is_heard_of_again(recorded: Recorded) -> None:
    assert recorded.run.state(NOW + 11, SETTINGS) is RunState.LOST
    recorded.add(heartbeat=pb.Heartbeat(), now=NOW + 12)
    assert recorded.run.state(NOW + 12, SETTINGS) is RunState.RUNNING


def test_a_clock_that_is_set_back_hides_no_sender_that_is_silent_or_without_observations(
    recorded: Recorded,
) -> None:
    recorded.add(observed(1), now=NOW + 86400)
    assert recorded.run.state(NOW, SETTINGS) is RunState.LOST
    recorded.add(observed(2), heartbeat=pb.Heartbeat(), now=NOW)
    assert recorded.run.state(NOW, SETTINGS) is RunState.RUNNING
    recorded.register(attempt=2, now=NOW + 86400)
    recorded.add(observed(1), attempt=2, now=NOW)
    recorded.add(attempt=2, heartbeat=pb.Heartbeat(), now=NOW + 115)
    assert recorded.run.state(NOW + 115, SETTINGS) is RunState.STALLED


@pytest.mark.parametrize("ahead", [7200.0, -7200.0])
def test_times_of_a_run_whose_clock_is_apart_are_told_by_the_clock_of_the_service(
    recorded: Recorded, ahead: float
) -> None:
    recorded.add(observed(1, observed_at=NOW + ahead - 9), now=NOW)
    for second in range(5):
        recorded.add(heartbeat=pb.Heartbeat(sent_at=NOW + ahead + second), now=NOW + second)
    assert recorded.run.clocks.ahead == ahead
    assert recorded.run.observed_at == NOW - 9
    recorded.register(attempt=2)
    assert recorded.run.clocks.ahead is None


def test_a_run_whose_clock_is_set_forward_is_stalled_as_early_as_before(recorded: Recorded) -> None:
    for step in range(1, 41):
        now, ahead = NOW + 10 * step, 7200.0 * (step > 20) + 7200.0 * (step > 30)
        recorded.add(observed(step, observed_at=now + ahead), now=now)
        recorded.add(heartbeat=pb.Heartbeat(sent_at=now + ahead + 4.9), now=now + 5)
    recorded.add(heartbeat=pb.Heartbeat(), now=NOW + 435)
    assert recorded.run.state(NOW + 435, SETTINGS) is RunState.STALLED


def test_nothing_is_told_to_have_happened_after_it_was_heard_of(recorded: Recorded) -> None:
    recorded.store.register(registration("run", 2, started_at=NOW + 30), NOW, 10)
    recorded.live.put(from_store(recorded.store.run("run")))
    recorded.add(observed(1, observed_at=NOW + 40), attempt=2, now=NOW + 10)
    assert (recorded.run.started_at, recorded.run.observed_at) == (NOW, NOW + 10)


def test_a_finished_run_stays_finished(recorded: Recorded) -> None:
    recorded.add(finished(1))
    assert recorded.run.state(NOW + 1000, SETTINGS) is RunState.FINISHED


def test_a_failed_run_says_why(recorded: Recorded) -> None:
    recorded.add(finished(1, reason="out of memory"))
    assert recorded.run.state(NOW, SETTINGS) is RunState.FAILED
    assert recorded.run.finish is not None
    assert recorded.run.finish.reason == "out of memory"


@pytest.mark.parametrize(
    ("ending", "outcome", "state"),
    [
        (pb.Finish.ENDING_COMPLETED, pb.Finish.OUTCOME_FINISHED, RunState.FINISHED),
        (pb.Finish.ENDING_STOPPED, pb.Finish.OUTCOME_FINISHED, RunState.STOPPED),
        (pb.Finish.ENDING_PREEMPTED, pb.Finish.OUTCOME_FAILED, RunState.PREEMPTED),
        (pb.Finish.ENDING_FAILED, pb.Finish.OUTCOME_FAILED, RunState.FAILED),
        # From senders of earlier versions, and of later ones.
        (pb.Finish.ENDING_UNSPECIFIED, pb.Finish.OUTCOME_FINISHED, RunState.FINISHED),
        (pb.Finish.ENDING_UNSPECIFIED, pb.Finish.OUTCOME_FAILED, RunState.FAILED),
        (99, pb.Finish.OUTCOME_FAILED, RunState.FAILED),
    ],
)
def test_endings_are_told_apart(recorded: Recorded, ending: int, outcome: int, state: RunState) -> None:
    recorded.add(pb.Item(sequence=1, finish=pb.Finish(outcome=outcome, ending=ending, finished_at=NOW)))
    assert recorded.run.state(NOW + 1000, SETTINGS) is state
    assert recorded.run.ended_before(NOW + 1000, NOW + 1000, SETTINGS)


def test_a_slow_run_is_not_stalled_between_its_observations_also_after_a_restart(recorded: Recorded) -> None:
    for number in range(1, 8):
        recorded.add(observed(number, observed_at=NOW + 50 * number), now=NOW + 50 * number)
    recorded.add(heartbeat=pb.Heartbeat(), now=NOW + 490)
    restarted = from_store(recorded.store.run("run"))
    assert [run.state(NOW + 490, SETTINGS) for run in (recorded.run, restarted)] == [RunState.RUNNING] * 2
    recorded.add(heartbeat=pb.Heartbeat(), now=NOW + 501)
    restarted = from_store(recorded.store.run("run"))
    assert [run.state(NOW + 501, SETTINGS) for run in (recorded.run, restarted)] == [RunState.STALLED] * 2


def test_a_resumed_run_learns_its_pauses_anew(recorded: Recorded) -> None:
    for number in range(1, 8):
        recorded.add(observed(number, observed_at=NOW + number), now=NOW + number)
    assert recorded.run.pauses.count == 6
    recorded.register(attempt=2, resumed_from_step=7, now=NOW + 500)
    assert recorded.run.pauses.count == 0


def test_a_resumed_run_runs_again_and_has_time_to_load(recorded: Recorded) -> None:
    recorded.add(observed(1), finished(2, reason="killed"))
    recorded.register(attempt=2, resumed_from_step=1, now=NOW + 500)
    recorded.add(attempt=2, heartbeat=pb.Heartbeat(), now=NOW + 550)
    assert recorded.run.state(NOW + 550, SETTINGS) is RunState.RUNNING


def test_only_the_latest_attempt_shows_life(recorded: Recorded) -> None:
    recorded.register(attempt=2)
    recorded.add(attempt=1, heartbeat=pb.Heartbeat(unsent_items=7), now=NOW + 50)
    assert recorded.run.heard_at == NOW
    assert recorded.run.unsent_items == 0
    recorded.add(finished(1), attempt=1)
    assert recorded.run.finish is None


def test_resuming_takes_back_what_lies_behind(recorded: Recorded) -> None:
    recorded.add(observed(1, step=10), logged(2, step=10, loss=3), observed(3, step=20), logged(4, step=20, loss=2))
    assert recorded.run.step == 20
    recorded.register(attempt=2, resumed_from_step=10)
    assert recorded.run.step == 10
    assert recorded.run.training_metrics["loss"].value == 3
    assert recorded.run.observations == 1


def test_late_items_of_an_earlier_attempt_do_not_bring_superseded_steps_back(recorded: Recorded) -> None:
    recorded.register(attempt=2, resumed_from_step=10)
    recorded.add(observed(1, step=10), observed(2, step=20), attempt=1)
    assert recorded.run.step == 10
    assert recorded.run.observations == 1


def test_late_items_do_not_turn_the_clock_back(recorded: Recorded) -> None:
    recorded.add(observed(5, step=5), logged(6, step=5, loss=1))
    recorded.add(observed(1, step=1), logged(2, step=1, loss=9, reward=4))
    assert recorded.run.step == 5
    assert {name: metric.value for name, metric in recorded.run.training_metrics.items()} == {"loss": 1, "reward": 4}
    assert recorded.run.observations == 2


def test_evaluation_does_not_hide_the_training_loss(recorded: Recorded) -> None:
    recorded.add(logged(1, loss=2), logged(2, eval_loss=3))
    assert set(recorded.run.training_metrics) == {"loss", "eval_loss"}


def test_a_trainer_that_makes_up_names_does_not_fill_the_memory(recorded: Recorded) -> None:
    for step in range(1, 13):
        recorded.add(logged(step, loss=step, **{f"loss of batch {step}.{number}": 1 for number in range(100)}))
    metrics = recorded.run.training_metrics
    assert len(metrics) == 1000
    assert metrics["loss"].value == 12
    assert "loss of batch 12.0" in metrics
    assert "loss of batch 1.0" not in metrics
    assert recorded.run == from_store(recorded.store.run("run"))


def test_an_observation_is_read_by_the_references_of_its_own_attempt(recorded: Recorded) -> None:
    recorded.add(observed(1))
    later = changed(registration("run", 2, resumed_from_step=1), references=[], tolerances=[])
    recorded.store.register(later, NOW, 10)
    recorded.live.put(from_store(recorded.store.run("run")))
    assert recorded.run.latest is not None
    assert recorded.run.latest.registration.references[0].name == "other seed"
    assert recorded.run.latest.totals.references[0].intersection == 15


def test_a_snapshot_that_was_taken_does_not_change(recorded: Recorded) -> None:
    before = recorded.run
    copy = replace(before)
    recorded.add(observed(1), logged(2, loss=1), heartbeat=pb.Heartbeat(unsent_items=5), now=NOW + 1)
    assert before == copy
    assert recorded.run != before


def test_runs_are_listed_the_most_recently_registered_first(recorded: Recorded) -> None:
    for run_id, now in (("older", NOW - 1), ("newer", NOW + 1)):
        recorded.store.register(registration(run_id), now, 10)
        recorded.live.put(from_store(recorded.store.run(run_id)))
    assert [run.run_id for run in recorded.live.all()] == ["newer", "run", "older"]


_ITEMS = st.builds(
    lambda kind, step: (kind, step), st.sampled_from(["observation", "log", "finish"]), st.integers(1, 30)
)
_EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("register"), st.integers(1, 3)),
        st.tuples(st.just("heartbeat"), st.integers(1, 3)),
        st.tuples(st.integers(1, 3), st.lists(_ITEMS, max_size=5)),
    ),
    max_size=12,
)


def _item(kind: str, sequence: int, step: int) -> pb.Item:
    if kind == "observation":
        return observed(sequence, step=step)
    return logged(sequence, step=step, loss=sequence) if kind == "log" else finished(sequence, step=step)


@settings(max_examples=60, deadline=None)
@given(events=_EVENTS, resumed=st.tuples(st.just(0), st.integers(0, 30), st.integers(0, 30)))
def test_live_state_equals_what_a_restart_would_read(
    tmp_path_factory: pytest.TempPathFactory, events: list[tuple[object, object]], resumed: tuple[int, int, int]
) -> None:
    recorded = Recorded(tmp_path_factory.mktemp("live") / "store.db")
    recorded.register()
    registered = {1}
    sequence = 0
    for number, (what, value) in enumerate(events):
        now = NOW + number
        if what == "register" and isinstance(value, int):
            recorded.register(value, resumed[value - 1], now)
            registered.add(value)
        elif what == "heartbeat" and isinstance(value, int) and value in registered:
            recorded.add(attempt=value, heartbeat=pb.Heartbeat(unsent_items=number), now=now)
        elif isinstance(what, int) and isinstance(value, list) and what in registered:
            items = [_item(kind, sequence + index, step) for index, (kind, step) in enumerate(value, start=1)]
            sequence += len(items)
            recorded.add(*items, attempt=what, now=now)
    assert recorded.run == from_store(recorded.store.run("run"))
    recorded.store.close()
