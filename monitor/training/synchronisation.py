"""When a trainer hands its weights to what generates, as TRL does to vLLM, and what changed from one time to the next.

A sync can be told where the weights were observed at it and at the one before, and not in between: then the step mask
is between the two, and costs nothing more.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from monitor.observe.observation import Observation, Synchronisation

if TYPE_CHECKING:
    from transformers import TrainingArguments

logger = logging.getLogger(__name__)

# By name, as in published.py. A batch here is what one forward and backward pass takes, of which
# gradient_accumulation_steps make a step. Read in trl 1.16; GOLD, GKD and IW-OPD generate as their data wants it.
_EVERY_BATCHES = {
    **dict.fromkeys(
        ("GRPOConfig", "RLOOConfig", "SDFTConfig", "SDPOConfig"), ("steps_per_generation", "num_iterations")
    ),
    "DistillationConfig": ("gradient_accumulation_steps",),
    "OnlineDPOConfig": (),
}
_EVERY_STEPS = ("AsyncGRPOConfig", "AsyncDistillationConfig")


@dataclass(frozen=True)
class Schedule:
    """How often a trainer generates with its weights as they are then.

    Attributes:
        every: so many batches or steps.
        in_steps: optimizer steps, and at the end of one; otherwise batches, and before the first of them.
        batches_per_step: gradient_accumulation_steps.
        when_evaluating: whether an evaluation takes the weights, too.
    """

    every: int
    in_steps: bool = False
    batches_per_step: int = 1
    when_evaluating: bool = False

    @classmethod
    def of(cls, args: TrainingArguments) -> Schedule | None:
        """Return what the trainer's arguments say; None where it hands its weights to nobody, or that is not known."""
        names = [kind.__name__ for kind in type(args).__mro__]
        if any(name in _EVERY_STEPS for name in names):
            every = _whole(getattr(args, "weight_sync_steps", None))
            return None if every is None else cls(every, in_steps=True)
        factors = next((_EVERY_BATCHES[name] for name in names if name in _EVERY_BATCHES), None)
        if factors is None:
            return None
        every = 1
        for factor in factors:
            if (times := _whole(getattr(args, factor, None))) is None:
                return None
            every *= times
        return cls(
            every,
            batches_per_step=max(args.gradient_accumulation_steps, 1),
            when_evaluating=bool(getattr(args, "use_vllm", False)),
        )

    @property
    def steps(self) -> int | None:
        """Optimizer steps from one sync to the next; None where they are not always as many."""
        if self.in_steps:
            return self.every
        steps, rest = divmod(self.every, self.batches_per_step)
        if rest == 0:
            return steps
        return 1 if self.batches_per_step % self.every == 0 else None


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and value >= 1 else None


class _Handed(NamedTuple):
    """The steps of the weights that were handed over last, and before that; None where that is not known."""

    last: int | None
    before: int | None


class Synchronisations:
    """The weight syncs of one training. Every process follows them alike.

    Args:
        schedule: None for a trainer that has none.
        step: the first weights'.
        batches: that the trainer has had in earlier trainings.
        writes_log: whether this process says what cannot be told.
    """

    def __init__(
        self, schedule: Schedule | None = None, step: int = 0, *, batches: int = 0, writes_log: bool = False
    ) -> None:
        self._args: TrainingArguments | None = None
        self._schedule = schedule
        self._start = self._step = step
        self._batches = self._first_batch = batches
        self._handed = _Handed(None, None)
        self._at: dict[int, _Handed] = {}
        self._latest: Synchronisation | None = None
        self._must_tell = writes_log
        if schedule is not None and (schedule.in_steps or batches % schedule.every == 0):
            self._hand_over(step)

    @classmethod
    def of(cls, args: TrainingArguments, step: int, *, earlier: Synchronisations, writes_log: bool) -> Synchronisations:
        """Return those of a training that begins, and say so where they are not known.

        Args:
            earlier: of the training before, which may have been the same trainer's: that goes on counting its batches.
        """
        schedule = Schedule.of(args)
        if schedule is None and getattr(args, "use_vllm", False) and writes_log:
            logger.warning(
                "sparsity-monitor: it is not known when a trainer with %s hands its weights to vLLM. What changed "
                "between observations is shown in place of what changed between weight syncs, and called so.",
                type(args).__name__,
            )
        batches = earlier._batches if earlier._args is args else 0
        followed = cls(schedule, step, batches=batches, writes_log=writes_log)
        followed._args = args
        return followed

    def offset(self, every: int) -> int:
        """Return by how many steps observations `every` so many are to be later, so that they are at the syncs.

        After a resume, trainers that count batches count these from the checkpoint on.
        """
        schedule = self._schedule
        counts_batches = schedule is not None and not schedule.in_steps and schedule.steps == every
        return self._start % every if counts_batches else 0

    @property
    def may_generate(self) -> bool:
        """Whether the trainer generates in the step that begins; True where that is not known."""
        schedule = self._schedule
        if schedule is None or schedule.in_steps:
            return schedule is None
        return -(-self._batches // schedule.every) * schedule.every < self._batches + schedule.batches_per_step

    def end_batch(self) -> None:
        """Note that a batch is over that is not the last one of its step."""
        self._batches += 1

    def end_step(self, step: int, *, ends: bool) -> None:
        """Note that a step is over.

        Args:
            ends: whether the training ends with it, so that nothing is generated any more.
        """
        self._batches += 1
        first, self._first_batch = self._first_batch, self._batches
        before, self._step = self._step, step
        if self._schedule is None:
            return
        every = self._schedule.every
        if self._schedule.in_steps:
            if step % every == 0:
                self._hand_over(step)
            return
        if -(-first // every) * every < self._batches:
            # One of the step's batches was generated, with the weights from before the step.
            self._hand_over(before)
        if self._batches % every == 0 and not ends:
            self._hand_over(step)

    def evaluate(self, step: int) -> None:
        """Note that the weights of a step were evaluated."""
        if self._schedule is not None and self._schedule.when_evaluating:
            self._hand_over(step)

    def _hand_over(self, step: int) -> None:
        if step != self._handed.last:
            self._handed = _Handed(step, self._handed.last)

    def start(self, step: int) -> None:
        """Note that the weights of a step are being observed."""
        self._at[step] = self._handed

    def see(self, observation: Observation) -> Observation:
        """Return the observation with the latest sync up to its step, if that can be told."""
        handed = self._at.pop(observation.step, _Handed(None, None))
        if handed.last == observation.step:
            self._latest = _between_observations(observation, handed.before)
        if self._latest is not None and self._latest.step != handed.last:
            # It is not the latest any more, and that one was not observed.
            self._latest = None
        if self._latest is None and handed.last not in (None, self._start):
            self._tell()
        return replace(observation, synchronisation=self._latest)

    def _tell(self) -> None:
        if not self._must_tell or self._schedule is None:
            return
        self._must_tell = False
        steps = self._schedule.steps
        logger.warning(
            "sparsity-monitor: the trainer hands its weights to what generates %s, and they are not observed at "
            "exactly these steps, so that what changed from one weight sync to the next cannot always be told. What "
            "changed between observations is shown in its place, and called so.%s",
            "in the midst of steps" if steps is None else "after every step" if steps == 1 else f"every {steps} steps",
            ""
            if steps is None
            else f" To see it, set every={steps}, and neither max_overhead nor step_masks=False; "
            "a checkpoint or an evaluation between two syncs leaves one out.",
        )


def _between_observations(observation: Observation, before: int | None) -> Synchronisation | None:
    """Return the sync of the observed weights, if those that were handed over before are the previous observation's."""
    if before is None or before != observation.step - observation.stride or observation.step_changed is None:
        return None
    return Synchronisation(observation.step, before, observation.step_changed)
