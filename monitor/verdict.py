"""Verdicts: what the latest observations mean, in words and with the numbers that led to them.

A verdict follows from observations alone, so that every process of a parallel training comes to the same one. What only
the process that logs knows, such as the gradient norm, goes into the wording and nowhere else.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from monitor.errors import ConfigurationError
from monitor.observe.observation import IntArray, Observation
from monitor.observe.weights.groups import Group

GRADIENT_NORM = "grad_norm"
"""What trainers log the gradient norm as."""

# So many hidden weights to each visible one that moved are inert. Published RL with SGD earns its full reward with
# 0.02 % of the weights changed (arXiv 2602.07729): were all others hidden, that would be 5,000 to one.
INERT_HIDDEN_FACTOR = 10_000
# Sparser than any published RL with AdamW, which changes 0.04 of the weights or more.
_VERY_SPARSE_DENSITY = 1e-3


@dataclass(frozen=True)
class DenseThresholds:
    """When updates count as dense. Sparsities are shares from 0 to 1 of the trained visible weights; 0 is off.

    Frozen weights are left out, since the published runs that these figures come from train all: a run that trains a
    tenth of its weights is dense when most of that tenth has changed.

    Attributes:
        cumulative: dense when a smaller share of them equals the base. No published RL checkpoint is below 0.363
            (arXiv 2511.08567, bits in bfloat16); published supervised fine-tuning ends at 0.006–0.19.
        step: dense when a smaller share equals the previous observation, `observations` times in a row. Published RL
            changes at most 0.109 of the weights within 10 updates, with float32 master weights; supervised fine-tuning
            changed 0.495 in one (arXiv 2602.03839).
        warmup_steps: up to this step, finite weights are not judged. A step at a learning rate of 1e-7 changes nothing,
            one at 1e-5 up to 0.495 of the weights (arXiv 2602.03839).
        observations: how many in a row make a pattern.

    Raises:
        ConfigurationError: a value that cannot work.
    """

    cumulative: float = 0.35
    step: float = 0.75
    warmup_steps: int = 20
    observations: int = 3

    def __post_init__(self) -> None:
        for name in ("cumulative", "step"):
            value = getattr(self, name)
            if not _is_number(value) or not 0 <= value <= 1:
                raise ConfigurationError(
                    f"{name} of dense_thresholds is {value!r}; expected a sparsity from 0 to 1, such as 0.35."
                )
        for name, least in (("warmup_steps", 0), ("observations", 2)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ConfigurationError(
                    f"{name} of dense_thresholds is {value!r}; expected a whole number, {least} or greater."
                )


class Kind(StrEnum):
    """What updates look like."""

    INERT = "inert"
    VERY_SPARSE = "very sparse"
    SPARSE = "sparse"
    DENSIFYING = "densifying"
    DENSE = "dense (looks like SFT)"
    NON_FINITE = "non-finite"


@dataclass(frozen=True)
class Verdict:
    """What updates look like at a step, and why.

    Attributes:
        reason: the numbers that led to it, as a sentence without a full stop.
    """

    kind: Kind
    step: int
    reason: str

    def __str__(self) -> str:
        return f"{self.kind} at step {self.step}: {self.reason}"


class Judge:
    """Keeps the last few observations, and says what they mean.

    Args:
        thresholds: when updates count as dense.
        measured_as: criterion and dtype of the changed weights, such as "bits in bfloat16", for the wording.
        trained: what the trained weights are where not all are, for the wording.
        published: what is published of such trainings, for the wording.
    """

    def __init__(
        self,
        thresholds: DenseThresholds,
        measured_as: str,
        *,
        trained: str = "",
        published: str = "",
    ) -> None:
        self.thresholds = thresholds
        self.measured_as = measured_as
        self._trained = trained
        self._published = published
        self._recent: deque[Observation] = deque(maxlen=thresholds.observations)

    def judge(self, observation: Observation, logged: Mapping[str, object] | None = None) -> Verdict | None:
        """Add an observation, and return the verdict; None as long as there is too little to go by.

        Args:
            observation: of a later step than the one before.
            logged: what the trainer logged last. Its "grad_norm" and "learning_rate" change the wording only.
        """
        if self._recent and (_lost(self._recent[-1]) != _lost(observation)).any():
            # Other weights are left to measure: what differs from before says nothing about updates.
            self._recent.clear()
        if observation.step > self.thresholds.warmup_steps:
            self._recent.append(observation)
        elif not observation.non_finite.any():
            return None
        kind = judge(tuple(self._recent) or (observation,), self.thresholds)
        if kind is None:
            return None
        return Verdict(kind, observation.step, self._reason(kind, observation, logged or {}))

    def _reason(self, kind: Kind, observation: Observation, logged: Mapping[str, object]) -> str:
        match kind:
            case Kind.NON_FINITE:
                return self._non_finite(observation)
            case Kind.INERT:
                return self._inert(observation, logged)
            case Kind.VERY_SPARSE:
                return self._about(observation, self._why_so_few(observation))
            case Kind.DENSIFYING:
                return self._about(observation, self._pace(observation))
            case Kind.DENSE:
                return self._about(observation, self._crossed(observation))
            case Kind.SPARSE:
                return self._about(observation)

    def _about(self, observation: Observation, why: str = "") -> str:
        parts = (self._sparsities(observation), self._share_that_trains(observation), why, self._published)
        return "; ".join(part for part in parts if part)

    def _sparsities(self, observation: Observation) -> str:
        still = " that are still measured" if lost_weights(observation) else ""
        text = (
            f"{percent(observation.cumulative_sparsity)} of {observation.trained_weights:,} trained weights{still} "
            f"equal the base (cumulative sparsity, {self.measured_as})"
        )
        if observation.step_sparsity is None:
            return text
        return f"{text}, {percent(observation.step_sparsity)} equal {_predecessor(observation)} (step sparsity)"

    def _share_that_trains(self, observation: Observation) -> str:
        lost, weights = lost_weights(observation), observation.weights
        trained = observation.trained_weights + lost
        share = (
            f"{trained:,} of {weights:,} weights train ({percent(trained / weights)}"
            f"{f': {self._trained}' if self._trained else ''})"
        )
        if lost:
            unknown = f"{lost:,} weights are not measured any more: whatever became of them, the verdict is the same"
            return unknown if trained == weights else f"{share}; {unknown}"
        if trained == weights:
            return ""
        return (
            f"{share}, and {percent(observation.whole_model_cumulative_sparsity)} of all equal the base (whole-model "
            "cumulative sparsity)"
        )

    @staticmethod
    def _why_so_few(observation: Observation) -> str:
        text = (
            "fewer change than in any published RL run with AdamW; with SGD, RL learns with 0.02 % (arXiv 2602.07729)"
        )
        if observation.hidden.any():
            return text
        return f"{text}. If nothing is learned, the learning rate is too small for the dtype that weights are stored in"

    def _crossed(self, observation: Observation) -> str:
        limits = self.thresholds
        if observation.cumulative_sparsity < limits.cumulative:
            return f"cumulative sparsity is below its threshold of {percent(limits.cumulative)}"
        return (
            f"step sparsity was below its threshold of {percent(limits.step)} at each of the last "
            f"{limits.observations} observations"
        )

    def _pace(self, observation: Observation) -> str:
        fall, steps = _fall(self._recent)
        limit = self.thresholds.cumulative
        crossing = observation.step + round((observation.cumulative_sparsity - limit) / fall * steps)
        return (
            f"cumulative sparsity fell by {percent(fall)} of the weights in the last {steps} steps, and at that pace "
            f"passes the threshold of {percent(limit)} at about step {crossing}"
        )

    def _inert(self, observation: Observation, logged: Mapping[str, object]) -> str:
        steps = sum(recent.stride for recent in self._recent)
        most = max(moved(recent) for recent in self._recent)
        return (
            f"{f'at most {most:,}' if most else 'not one'} of {observation.trained_weights:,} trained visible weights "
            f"moved at any observation of the last {steps} steps ({self.measured_as})"
            f"{self._why_inert(int(observation.hidden.sum()), logged)}"
        )

    @staticmethod
    def _why_inert(hidden: int, logged: Mapping[str, object]) -> str:
        norm, rate = logged.get(GRADIENT_NORM), logged.get("learning_rate")
        at_rate = f", {rate:g}," if isinstance(rate, int | float) else ""
        if hidden:
            return (
                f"; {hidden:,} stored weights differ from the base, by less than the visible dtype shows: what is "
                "served is as good as the base until they add up, or the learning rate is raised"
            )
        if not isinstance(norm, int | float):
            return "; the gradient norm is not known yet"
        if norm == 0:
            return ", and the gradient norm is 0: there is nothing to learn from, such as equal rewards in every group"
        if not math.isfinite(norm):
            return f", and the gradient norm is {norm}: the optimizer may be skipping its steps"
        return (
            f" although the gradient norm is {norm:.3g}: the learning rate{at_rate} is too small for the dtype that "
            "the weights are stored in, and rounding undoes every step. Raise it, or keep float32 master weights"
        )

    @staticmethod
    def _non_finite(observation: Observation) -> str:
        counts = [int(count) for count in observation.non_finite]
        worst = observation.groups[counts.index(max(counts))]
        layer = f"{worst.stack} {worst.layer}".lstrip()
        where = worst.module if worst.layer is None else f"{worst.module} of layer {layer}"
        return (
            f"{sum(counts):,} of {observation.weights:,} visible weights are NaN or infinite, most of them in {where}. "
            "Sparsity means nothing any more; go back to a checkpoint before this step"
        )


def judge(recent: Sequence[Observation], thresholds: DenseThresholds) -> Kind | None:
    """Say what updates look like, from the last few observations; None where that cannot be known.

    It cannot where they are too few, where nothing is trained, or where it depends on weights that are lost: what is
    said is the same whether all of those have changed or none.

    Args:
        recent: the observations after the warm-up, the latest last, at most `thresholds.observations` of them, which
            have lost the same weights.
    """
    if not lost_weights(recent[-1]):
        return _kind(recent, thresholds)
    if_none = _kind([_supposing(seen, changed=0) for seen in recent], thresholds)
    if_all = _kind([_supposing(seen, changed=lost_weights(seen)) for seen in recent], thresholds)
    return if_none if if_none is if_all else None


def lost_weights(observation: Observation) -> int:
    """Count the trained weights that are not measured any more, or not at this step."""
    return int(_lost(observation).sum())


def _lost(observation: Observation) -> IntArray:
    return np.zeros_like(observation.changed) if observation.unmeasured is None else observation.unmeasured


def _supposing(observation: Observation, *, changed: int) -> Observation:
    """Return the observation as it would be had so many of the lost weights changed, and moved at this step."""
    steps = observation.step_changed
    return replace(
        observation,
        groups=(*observation.groups, Group(None, "unmeasured", lost_weights(observation))),
        changed=np.append(observation.changed, changed),
        newly_changed=np.append(observation.newly_changed, changed),
        step_changed=None if steps is None else np.append(steps, changed),
    )


def _kind(recent: Sequence[Observation], thresholds: DenseThresholds) -> Kind | None:
    latest = recent[-1]
    if latest.non_finite.any():
        return Kind.NON_FINITE
    if not latest.trained_weights:
        return None
    if latest.cumulative_sparsity < thresholds.cumulative:
        return Kind.DENSE
    return _pattern(recent, thresholds) if len(recent) == thresholds.observations else None


def _pattern(recent: Sequence[Observation], thresholds: DenseThresholds) -> Kind:
    if all(seen.step_sparsity is not None and seen.step_sparsity < thresholds.step for seen in recent):
        return Kind.DENSE
    if _is_inert(recent):
        return Kind.INERT
    if _is_very_sparse(recent):
        return Kind.VERY_SPARSE
    return Kind.DENSIFYING if _soon_dense(recent, thresholds) else Kind.SPARSE


def moved(observation: Observation) -> int:
    """Count the visible weights that are not what they were at the previous observation.

    Without step masks: those that became equal to the base, or ceased to be.
    """
    if observation.step_changed is not None:
        return int(observation.step_changed.sum())
    return int(observation.newly_changed.sum() + observation.reverted.sum())


def percent(share: float) -> str:
    """Format a share so that it reads 100 % or 0 % only where it is.

    >>> percent(0.9999962), percent(0.4567), percent(0.006), percent(1.0)
    ('99.99962 %', '45.7 %', '0.60 %', '100 %')
    """
    rest = min(share, 1 - share)
    if not rest > 0:
        return f"{100 * share:g} %"
    return f"{100 * share:.{max(1, 1 - math.floor(math.log10(100 * rest)))}f} %"


def _is_inert(recent: Sequence[Observation]) -> bool:
    most = max(moved(observation) for observation in recent)
    # Stored weights that moved are the proof that there are gradients.
    hidden = int(recent[-1].hidden.sum())
    return most == 0 or hidden >= INERT_HIDDEN_FACTOR * max(most, int(recent[-1].changed.sum()))


def _is_very_sparse(recent: Sequence[Observation]) -> bool:
    most = max(moved(observation) for observation in recent)
    return max(most, int(recent[-1].changed.sum())) < _VERY_SPARSE_DENSITY * recent[-1].trained_weights


def _soon_dense(recent: Sequence[Observation], thresholds: DenseThresholds) -> bool:
    # Published updates slow down as they go. One that at its present pace crosses the threshold before the run is twice
    # as old does not.
    fall, steps = _fall(recent)
    latest = recent[-1]
    return latest.cumulative_sparsity - fall / steps * latest.step < thresholds.cumulative


def _fall(recent: Sequence[Observation]) -> tuple[float, int]:
    first, latest = recent[0], recent[-1]
    return first.cumulative_sparsity - latest.cumulative_sparsity, latest.step - first.step


def _predecessor(observation: Observation) -> str:
    return "the step before" if observation.stride == 1 else f"what they were {observation.stride} steps before"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
