"""Whose training begins: the table of RUNS.md, row by row, with real trainings."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from transformers import TrainerCallback

from monitor import SparsityCallback
from monitor.errors import BaseMismatchError, ConfigurationError
from monitor.wire import monitor_pb2 as pb
from tests.eventually import eventually
from tests.service.running import Client, service_in_thread
from tests.spooled import attempts, spooled
from tests.tiny import common_arguments, plain_trainer, save_model
from tests.training.identities import BRANCH, ROWS, RUN_ID, STEP, Case, Row, Start, in_place

NAME, LABELS, RATE = "first", {"seed": "1"}, 1e-5
END = STEP + 1
LOGGER = "monitor.training.start"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


@dataclass(frozen=True)
class Saved:
    """A run that was trained to its checkpoint, and what it had touched there."""

    directory: Path
    run_id: str
    touched: list[int]


@pytest.fixture(scope="module")
def trained(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    directory = tmp_path_factory.mktemp("trained") / "run"
    callback = train(model, directory, {}, {"max_steps": STEP})
    assert callback.run_id is not None
    return Saved(directory, callback.run_id, callback.last_observation.touched.tolist())


@pytest.fixture
def run(trained: Saved, tmp_path: Path) -> Saved:
    """The same of a test's own, as if it had been trained here."""
    directory = Path(shutil.copytree(trained.directory, tmp_path / "run"))
    state = directory / f"checkpoint-{STEP}" / "trainer_state.json"
    state.write_text(state.read_text().replace(str(trained.directory.resolve()), str(directory.resolve())))
    return Saved(directory, trained.run_id, trained.touched)


def train(
    model: Path,
    output: Path,
    settings: Mapping[str, Any],
    arguments: Mapping[str, Any],
    checkpoint: Path | None = None,
    *others: TrainerCallback,
) -> SparsityCallback:
    """Train to the end, from a checkpoint if one is given, and return what observed it."""
    called = {"target": None, "run_name": NAME, "labels": LABELS} | settings
    if "run_name" in arguments:
        del called["run_name"]
    callback = SparsityCallback(**called)
    saving = {"save_strategy": "steps", "save_steps": STEP, "learning_rate": RATE, "max_steps": END}
    # A linear one has come to 0 where the run ended.
    saving["lr_scheduler_type"] = "constant"
    trainer = plain_trainer(model, common_arguments(output, **saving | arguments), [callback, *others])
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    return callback


def registration(callback: SparsityCallback) -> pb.Registration:
    """What the latest attempt says of itself."""
    return pb.Registration.FromString(attempts(callback)[-1].registration)


def parent(message: pb.Registration) -> tuple[str, int] | None:
    return (message.parent.run_id, message.parent.step) if message.HasField("parent") else None


class StartLine(NamedTuple):
    """What is said of the run when training starts: once, printed, or where it may surprise, as a warning."""

    text: str
    is_warning: bool


@pytest.fixture
def start_line(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> Callable[[], StartLine]:
    def only_one() -> StartLine:
        warned = [StartLine(record.getMessage(), True) for record in caplog.records if record.name == LOGGER]
        printed = re.findall(r"^sparsity-monitor: ((?:resumes|starts) run .*)$", capsys.readouterr().err, re.MULTILINE)
        (line,) = [*warned, *(StartLine(text, False) for text in printed)]
        return line

    return only_one


CASES = [(row, case) for row in ROWS for case in row.cases]


def case_name(value: Row | Case) -> str:
    if isinstance(value, Row):
        return value.answer
    return " ".join([value.prepare.__name__, *value.settings, *value.arguments])


@pytest.mark.parametrize(("row", "case"), CASES, ids=case_name)
def test_a_training_that_goes_on_from_a_checkpoint_is_of_this_run(
    row: Row, case: Case, run: Saved, model: Path, start_line: Callable[[], StartLine]
) -> None:
    start = case.prepare(run.directory)
    given = {
        name: value.format(run_id=run.run_id) if value == RUN_ID else value for name, value in case.settings.items()
    }
    callback = train(model, start.output, given, case.arguments, start.checkpoint)
    now, said = registration(callback), start_line().text
    assert [item.step for item in spooled(callback, "observation") if item.step > STEP] == [END]
    if row.answer == BRANCH:
        assert (now.attempt, parent(now)) == (1, (run.run_id, STEP))
        assert now.run_id != run.run_id
        assert f"starts run {now.run_id}, a branch of run {run.run_id} at step {STEP}, because" in said
        assert f"give run_id={run.run_id!r}" in said
    else:
        assert (now.run_id, now.attempt, parent(now)) == (run.run_id, 2, None)
        assert f"resumes run {run.run_id} at step {STEP}" in said
    assert callback.run_id == now.run_id
    assert now.name == {**{"run_name": NAME}, **case.arguments, **given}["run_name"]


def test_it_is_said_aloud_where_something_else_may_have_been_meant(
    run: Saved, model: Path, start_line: Callable[[], StartLine]
) -> None:
    train(model, run.directory.with_name("elsewhere"), {}, {}, in_place(run.directory).checkpoint)
    said = start_line()
    assert said.is_warning
    assert f"or train in {run.directory.resolve()}" in said.text


def test_a_run_that_goes_on_under_another_name_says_how_to_branch(
    run: Saved, model: Path, start_line: Callable[[], StartLine]
) -> None:
    train(model, run.directory, {"run_name": "renamed"}, {}, in_place(run.directory).checkpoint)
    said = start_line()
    assert said.is_warning
    assert "in its own output directory, although run_name is 'renamed' instead of 'first'" in said.text
    assert "For a run of its own, give it another run_id" in said.text


def test_of_two_directories_with_the_same_run_it_is_said_that_one_can_go_on(
    run: Saved, model: Path, start_line: Callable[[], StartLine]
) -> None:
    copy = Path(shutil.copytree(run.directory, run.directory.with_name("copy")))
    train(model, copy, {}, {}, in_place(copy).checkpoint)
    said = start_line()
    assert said.is_warning
    assert f"{run.directory.resolve()} is still there" in said.text


def test_a_branch_that_is_resumed_stays_a_branch(run: Saved, model: Path) -> None:
    output = run.directory.with_name("branch")
    branch = train(model, output, {}, {"save_steps": END}, in_place(run.directory).checkpoint)
    again = train(model, output, {}, {"max_steps": END + 1}, output / f"checkpoint-{END}")
    now = registration(again)
    assert (again.run_id, now.attempt, now.resumed_from_step) == (branch.run_id, 2, END)
    assert parent(now) == (run.run_id, STEP)


def test_a_branch_that_starts_again_before_it_saved_is_a_run_of_its_own(run: Saved, model: Path) -> None:
    output = run.directory.with_name("branch")
    first, second = (train(model, output, {}, {}, in_place(run.directory).checkpoint) for _ in range(2))
    assert len({run.run_id, first.run_id, second.run_id}) == 3


def test_a_branch_goes_on_from_what_its_parent_had_touched(
    run: Saved, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of the same base, with the same data: the branch sees what the run itself sees."""
    checkpoint = in_place(run.directory).checkpoint
    branch = train(model, run.directory.with_name("branch"), {}, {}, checkpoint)
    itself = train(model, run.directory, {}, {}, checkpoint)
    assert "no touched weights" not in caplog.text
    assert branch.run_id != itself.run_id
    for name in ("touched", "changed", "step_changed"):
        assert getattr(branch.last_observation, name).tolist() == getattr(itself.last_observation, name).tolist()
    assert sum(branch.last_observation.touched) > sum(run.touched) > 0


def test_a_branch_has_its_parents_base_unless_another_one_is_given(run: Saved, model: Path) -> None:
    checkpoint = in_place(run.directory).checkpoint
    moved = Path(shutil.copytree(model, run.directory.with_name("model")))
    save_model(moved, seed=1)
    with pytest.raises(BaseMismatchError, match=f"is not the one that run {run.run_id} started from"):
        train(moved, run.directory.with_name("branch"), {}, {}, checkpoint)
    given = train(model, run.directory.with_name("given"), {"base": str(moved)}, {}, checkpoint)
    assert parent(registration(given)) == (run.run_id, STEP)
    assert registration(given).base.source == str(moved)


def test_a_run_that_is_to_be_measured_otherwise_becomes_a_branch_as_the_error_says(run: Saved, model: Path) -> None:
    checkpoint, otherwise = in_place(run.directory).checkpoint, {"criterion": "atol=1e-5"}
    with pytest.raises(ConfigurationError, match="give another run_id, for a branch of that run"):
        train(model, run.directory, otherwise, {}, checkpoint)
    branch = train(model, run.directory, otherwise | {"run_id": "otherwise"}, {}, checkpoint)
    assert parent(registration(branch)) == (run.run_id, STEP)


def test_a_checkpoint_of_an_earlier_version_is_told_apart_by_its_directory(run: Saved, model: Path) -> None:
    checkpoint = in_place(run.directory).checkpoint
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    attributes = state["stateful_callbacks"]["sparsity_monitor"]["attributes"]
    kept = ("run_id", "attempt", "base_fingerprint", "measured_as")
    state["stateful_callbacks"]["sparsity_monitor"]["attributes"] = {name: attributes[name] for name in kept}
    (checkpoint / "trainer_state.json").write_text(json.dumps(state))
    same = train(model, run.directory, {"run_name": "renamed"}, {}, checkpoint)
    branch = train(model, run.directory.with_name("elsewhere"), {}, {}, checkpoint)
    assert same.run_id == run.run_id
    assert parent(registration(branch)) == (run.run_id, STEP)


def test_a_training_whose_arguments_come_from_numpy_saves_its_checkpoint(model: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {"learning_rate": np.float32(RATE), "run_name": Path("of/a sweep"), "max_steps": STEP}
    # The Trainer itself could not save what it logs of such a rate.
    given["logging_strategy"] = "no"
    train(model, tmp_path, {}, given)
    state = json.loads((tmp_path / f"checkpoint-{STEP}" / "trainer_state.json").read_text())
    identity = state["stateful_callbacks"]["sparsity_monitor"]["attributes"]
    assert (identity["learning_rate"], identity["name"]) == (float(np.float32(RATE)), "of/a sweep")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with service_in_thread(tmp_path_factory.mktemp("service") / "store.db") as client:
        yield client


class TrainMeanwhile(TrainerCallback):
    """Starts another training, and ends it, in the middle of this one."""

    def __init__(self, train_other: Any) -> None:
        self.train_other = train_other
        self.callback: SparsityCallback | None = None

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == END:
            self.callback = self.train_other()


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("copies", [True, False])
def test_two_branches_of_one_checkpoint_are_two_runs(
    at_once: bool, copies: bool, model: Path, tmp_path: Path, client: Client
) -> None:
    """Neither disappears, and the run that they branch from stays as it was."""
    target = {"target": client.listening.grpc_address}
    run = train(model, tmp_path / "run", target, {"max_steps": STEP})
    eventually(lambda: client.is_over(run.run_id))
    before = client.run(run.run_id)

    def branch(name: str, rate: float, *others: TrainerCallback) -> SparsityCallback:
        output = tmp_path / name
        if copies:
            shutil.copytree(tmp_path / "run", output)
        start = in_place(output) if copies else Start(output, tmp_path / "run" / f"checkpoint-{STEP}")
        settings = target | {"run_name": name, "labels": {"rate": str(rate)}}
        return train(model, output, settings, {"max_steps": END + 1, "learning_rate": rate}, start.checkpoint, *others)

    if at_once:
        meanwhile = TrainMeanwhile(lambda: branch("second", 1e-5))
        branches = [branch("first", 1e-3, meanwhile), meanwhile.callback]
    else:
        branches = [branch("first", 1e-3), branch("second", 1e-5)]
    assert len({run.run_id, *(each.run_id for each in branches)}) == 3
    for name, each in zip(("first", "second"), branches, strict=True):
        eventually(lambda run_id=each.run_id: client.is_over(run_id))
        shown = client.run(each.run_id)
        assert (shown.registration.name, shown.observations, shown.last_step) == (name, 2, END + 1)
        assert parent(shown.registration) == (run.run_id, STEP)
    assert client.run(run.run_id) == before
