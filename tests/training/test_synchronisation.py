"""What changed between weight syncs, against the weights with which the trainer really generated."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import nn
from transformers import TrainingArguments
from trl import GRPOConfig, GRPOTrainer

from monitor import Observation, SparsityCallback
from monitor.observe.observer import UpdateObserver
from monitor.training.synchronisation import Schedule, Synchronisations
from tests.tiny import PROMPTS, common_arguments, distinct_characters, save_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


def place(bits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Where bfloat16 weights are among all values: 0 is ±0, 1 the next one above it, −1 the next one below."""
    signed = bits.astype(np.int32)
    return np.where(signed < 0, -(signed & 0x7FFF), signed)


class GenerationNoted(GRPOTrainer):  # type: ignore[misc]
    """Keeps the weights with which it generated for its training, by the step that they are of."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.base: dict[str, np.ndarray[Any, Any]] = {}
        self.generated: dict[int, dict[str, np.ndarray[Any, Any]]] = {}
        super().__init__(*args, **kwargs)

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        places = {name: place(p.detach().view(torch.int16).numpy()) for name, p in self.model.named_parameters()}
        self.generated[self.state.global_step] = places
        self.base = self.base or places
        return super()._generate_and_score_completions(inputs)

    def changed(self, previous: int, step: int) -> int:
        """Count the weights that differ between two generations, but for those that the step mask misses.

        These differ from the base both times, and have moved by a multiple of 256 representable steps: a handful of
        weights near 0.
        """
        count = missed = 0
        for name, first in self.base.items():
            before, after = self.generated[previous][name], self.generated[step][name]
            differs = before != after
            is_missed = differs & ((after - before) % 256 == 0) & (before != first) & (after != first)
            count, missed = count + int(differs.sum()), missed + int(is_missed.sum())
        assert missed < 10
        return count - missed


@dataclass
class Seen:
    """What a callback observed.

    Attributes:
        syncs: step of the observation → previous step, step and changed weights of its sync; None without.
    """

    syncs: dict[int, tuple[int, int, int] | None] = field(default_factory=dict)
    observations: list[Observation] = field(default_factory=list)


class Observing(SparsityCallback):
    """Keeps what it observed."""

    seen: Seen

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        super().on_step_end(*args, **kwargs)
        latest = self.last_observation
        if latest is not None and latest.step not in self.seen.syncs:
            sync = latest.synchronisation
            self.seen.observations.append(latest)
            self.seen.syncs[latest.step] = sync and (sync.previous_step, sync.step, int(sync.changed.sum()))


def trainer(
    model: Path, output: Path, *, every: int = 1, resume: str | None = None, **arguments: Any
) -> tuple[GenerationNoted, Seen]:
    callback = Observing(None, "run", quiet=True, every=every, strict=True)
    callback.seen = Seen()
    common = common_arguments(output, bf16_weights=True, learning_rate=1e-5, max_completion_length=2, **arguments)
    made = GenerationNoted(
        str(model),
        reward_funcs=distinct_characters,
        args=GRPOConfig(num_generations=4, **common),
        train_dataset=Dataset.from_dict({"prompt": PROMPTS * 8}),
        callbacks=[callback],
    )
    made.train(resume_from_checkpoint=resume)
    return made, callback.seen


def test_by_default_a_trainer_of_trl_synchronises_after_every_step(model: Path, tmp_path: Path) -> None:
    trained, seen = trainer(model, tmp_path, max_steps=3)
    assert list(trained.generated) == [0, 1, 2]
    first, second = trained.changed(0, 1), trained.changed(1, 2)
    assert first > 0
    # Nothing is generated with the last weights: the sync before stays the latest.
    assert seen.syncs == {1: (0, 1, first), 2: (1, 2, second), 3: (1, 2, second)}
    ratio = seen.observations[1].changed_ratio
    assert ratio == second / seen.observations[1].trained_weights


def test_a_sync_every_second_step_is_counted_from_end_point_to_end_point(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained, seen = trainer(model, tmp_path, every=2, max_steps=7, num_iterations=2)
    assert list(trained.generated) == [0, 2, 4, 6]
    expected = {step: (step - 2, step, trained.changed(step - 2, step)) for step in (2, 4, 6)}
    # The last step is always observed.
    assert seen.syncs == {**expected, 7: expected[6]}
    assert not [record for record in caplog.records if "hands its weights" in record.message]


def test_what_is_observed_in_between_leaves_the_sync_untold_and_says_so_once(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        trained, seen = trainer(model, tmp_path, max_steps=5, steps_per_generation=4)
    assert list(trained.generated) == [0, 2, 4]
    assert set(seen.syncs.values()) == {None}
    (said,) = [record.message for record in caplog.records if "hands its weights" in record.message]
    assert "every 2 steps" in said
    assert "set every=2, and neither max_overhead nor step_masks=False" in said


def test_after_a_resume_off_the_beat_observations_meet_the_syncs_again(model: Path, tmp_path: Path) -> None:
    arguments = {"max_steps": 7, "num_iterations": 2, "save_strategy": "steps", "save_steps": 3}
    first, _ = trainer(model, tmp_path, every=2, **arguments)
    resumed, seen = trainer(model, tmp_path, every=2, resume=str(tmp_path / "checkpoint-3"), **arguments)
    resumed.base = first.generated[0]
    # A trainer that goes on generates at once, and every two steps from there.
    assert list(resumed.generated) == [3, 5]
    assert seen.syncs[5] == (3, 5, resumed.changed(3, 5))
    # The checkpoint after step 6 is observed in between.
    assert list(seen.syncs) == [5, 6, 7]


STEPS = 24


def generated(every: int, per_step: int) -> tuple[list[int], list[int]]:
    """Return the steps whose weights a trainer generates with, and how many batches each step has.

    As TRL does it: before each batch whose number is a multiple of `every`. Some steps end early, as at the end of an
    epoch.
    """
    sizes = [1 if step % 7 == 0 else per_step for step in range(1, STEPS + 1)]
    first = np.cumsum([0, *sizes])
    of_batch = {int(batch): step for step, start in enumerate(first[:-1]) for batch in range(start, first[step + 1])}
    return sorted({step for batch, step in of_batch.items() if batch % every == 0}), sizes


@pytest.mark.parametrize(("every", "per_step"), [(1, 1), (1, 3), (2, 4), (4, 2), (6, 2), (6, 4), (3, 2), (4, 3)])
@pytest.mark.parametrize("observe_every", [1, 2, 3])
def test_whatever_is_told_is_true(every: int, per_step: int, observe_every: int) -> None:
    steps, sizes = generated(every, per_step)
    syncs = Synchronisations(Schedule(every, batches_per_step=per_step))
    torch.manual_seed(0)
    weights = nn.Linear(20, 20, bias=False)
    observer = UpdateObserver(weights)
    bits = [weights.weight.detach().to(torch.bfloat16).view(torch.int16).numpy()]
    told = []
    for step, size in enumerate(sizes, start=1):
        with torch.no_grad():
            weights.weight.mul_(1 + 0.004 * torch.rand(20, 20))
        bits.append(weights.weight.detach().to(torch.bfloat16).view(torch.int16).numpy())
        for _ in range(size - 1):
            syncs.end_batch()
        syncs.end_step(step, ends=step == STEPS)
        if step % observe_every == 0:
            syncs.start(step)
            told.append((step, syncs.see(observer.observe(step)).synchronisation))
    for step, sync in told:
        if sync is not None:
            # A generation in the midst of the next step is known only when that is over.
            assert sync.step in (step, max(each for each in steps if each < step))
            assert sync.step in steps
            assert sync.previous_step == max(each for each in steps if each < sync.step)
            assert sync.changed.sum() == (bits[sync.step] != bits[sync.previous_step]).sum()
    known = [step for step, sync in told if sync is not None and sync.step == step]
    if every == 1 and observe_every == 1:
        assert known == list(range(1, STEPS))
    elif every == observe_every * per_step:
        # Until the first step that ends early.
        assert [step for step in known if step < 7] == list(range(observe_every, 7, observe_every))


def test_on_a_gpu_the_next_step_may_be_over_before_an_observation_is_complete() -> None:
    syncs = Synchronisations(Schedule(1))
    weights = nn.Linear(4, 4)
    observer = UpdateObserver(weights)
    syncs.end_step(1, ends=False)
    syncs.start(1)
    observer.start(1)
    syncs.end_step(2, ends=False)
    (observation,) = observer.collect()
    sync = syncs.see(observation).synchronisation
    assert sync is not None
    assert (sync.previous_step, sync.step) == (0, 1)


def test_an_evaluation_by_vllm_is_a_sync_that_is_not_counted() -> None:
    syncs = Synchronisations(Schedule(3, when_evaluating=True))
    observer = UpdateObserver(nn.Linear(4, 4))
    for step in range(1, 7):
        syncs.end_step(step, ends=False)
        if step == 4:
            syncs.evaluate(step)
        if step % 3 == 0:
            syncs.start(step)
            sync = syncs.see(observer.observe(step)).synchronisation
            # What was handed over before step 6 are the weights of step 4, which nobody looked at.
            assert (sync is None) == (step == 6)


def test_the_step_mask_is_what_syncs_are_counted_by() -> None:
    syncs = Synchronisations(Schedule(1), writes_log=True)
    observer = UpdateObserver(nn.Linear(4, 4), step_masks=False)
    syncs.end_step(1, ends=False)
    syncs.start(1)
    assert syncs.see(observer.observe(1)).synchronisation is None


def test_a_trainer_that_trains_again_goes_on_counting_its_batches(tmp_path: Path) -> None:
    args = GRPOConfig(str(tmp_path), steps_per_generation=2, gradient_accumulation_steps=1, use_cpu=True, bf16=False)
    first = Synchronisations.of(args, 0, earlier=Synchronisations(), writes_log=False)
    first.end_step(1, ends=True)
    second = Synchronisations.of(args, 0, earlier=first, writes_log=False)
    observer = UpdateObserver(nn.Linear(4, 4))
    for step, previous in ((1, None), (2, None), (3, 1)):
        second.end_step(step, ends=False)
        if step != 2:
            second.start(step)
            sync = second.see(observer.observe(step)).synchronisation
            assert (sync and sync.previous_step) == previous


class Named(TrainingArguments):  # type: ignore[misc]
    """Stands for the arguments of a trainer that is loaded by those who use it."""


def arguments(name: str, **values: Any) -> Any:
    made = type(name, (Named,), values)
    return made("unused", use_cpu=True, gradient_accumulation_steps=4)


@pytest.mark.parametrize(
    ("name", "values", "steps"),
    [
        ("GRPOConfig", {"steps_per_generation": 8, "num_iterations": 2}, 4),
        ("RLOOConfig", {"steps_per_generation": 4, "num_iterations": 1}, 1),
        ("GRPOConfig", {"steps_per_generation": 2, "num_iterations": 1}, 1),
        ("GRPOConfig", {"steps_per_generation": 6, "num_iterations": 1}, None),
        ("DistillationConfig", {}, 1),
        ("OnlineDPOConfig", {}, 1),
        ("AsyncGRPOConfig", {"weight_sync_steps": 3}, 3),
    ],
)
def test_how_often_is_what_the_arguments_say(name: str, values: dict[str, int], steps: int | None) -> None:
    schedule = Schedule.of(arguments(name, **values))
    assert schedule is not None
    assert schedule.steps == steps


@pytest.mark.parametrize(
    ("name", "values"), [("SFTConfig", {}), ("GOLDConfig", {}), ("GRPOConfig", {}), ("AsyncGRPOConfig", {})]
)
def test_others_are_not_guessed_at(name: str, values: dict[str, int]) -> None:
    assert Schedule.of(arguments(name, **values)) is None


def test_a_trainer_with_vllm_that_is_not_known_is_said(caplog: pytest.LogCaptureFixture) -> None:
    Synchronisations.of(arguments("GOLDConfig", use_vllm=True), 0, earlier=Synchronisations(), writes_log=True)
    assert "not known when a trainer with GOLDConfig hands its weights to vLLM" in caplog.text


def test_steps_count_where_the_trainer_counts_steps() -> None:
    syncs = Synchronisations(Schedule(2, in_steps=True), 3)
    observer = UpdateObserver(nn.Linear(4, 4), first_step=3)
    told = {}
    for step in range(4, 9):
        syncs.end_step(step, ends=step == 8)
        if step % 2 == 0:
            syncs.start(step)
            sync = syncs.see(observer.observe(step)).synchronisation
            told[step] = sync and sync.previous_step
    assert told == {4: 3, 6: 4, 8: 6}


@pytest.mark.parametrize(("every", "per_step"), [(1, 1), (2, 1), (4, 2), (3, 2), (1, 4), (6, 4)])
def test_the_steps_in_which_a_trainer_generates_are_known_before(every: int, per_step: int) -> None:
    syncs = Synchronisations(Schedule(every, batches_per_step=per_step))
    for step in range(1, 13):
        batches = range((step - 1) * per_step, step * per_step)
        assert syncs.may_generate == any(batch % every == 0 for batch in batches)
        for _ in range(per_step - 1):
            syncs.end_batch()
        syncs.end_step(step, ends=False)


def test_a_trainer_of_no_known_schedule_may_generate_at_any_step_and_one_that_never_waits_at_none() -> None:
    assert Synchronisations().may_generate
    assert not Synchronisations(Schedule(1, in_steps=True)).may_generate
