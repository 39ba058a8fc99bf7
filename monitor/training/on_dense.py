"""What the training process does about verdicts: it logs them, and answers dense updates as the user asked."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Literal, Protocol

from monitor.errors import ConfigurationError, shown
from monitor.observe.observation import Observation
from monitor.verdict import GRADIENT_NORM, DenseThresholds, Judge, Kind, Verdict, lost_weights

logger = logging.getLogger(__name__)

OnDense = Literal["warn", "stop"] | Callable[..., object] | None

# What a training was stopped by, then.
ON_DENSE = "on_dense"
# Logged only once they last.
_CALM = (Kind.VERY_SPARSE, Kind.SPARSE, Kind.DENSIFYING)


def check_on_dense(value: object) -> OnDense:
    """Return `value`.

    Raises:
        ConfigurationError: it is no answer to dense updates.
    """
    if value is None or value in ("warn", "stop") or callable(value):
        return value
    raise ConfigurationError(
        f'on_dense is {shown(value)}; expected "warn", "stop", a function that takes what help(SparsityCallback) or '
        "help(monitor.watch) says, or None."
    )


class Answer(Protocol):
    """How a training is told what was asked for when updates are dense."""

    def stop(self) -> str:
        """Let the training stop, and return how it does, for the log."""

    def call(self, function: Callable[..., object], observation: Observation, verdict: Verdict) -> None:
        """Call the user's function with what it is to get."""


class DenseWatch:
    """Judges observations, logs the verdict when it changes, and answers the first dense one.

    Args:
        on_dense: see RunSettings.
        thresholds: when updates count as dense.
        measured_as: criterion and dtype of the changed weights, for the wording.
        writes_log: whether this process writes to the log. Every process of a parallel training decides; one writes.
        strict: raise what the user's function raises.
        trained, published: see Judge.
    """

    def __init__(
        self,
        on_dense: OnDense,
        thresholds: DenseThresholds,
        measured_as: str,
        *,
        writes_log: bool,
        strict: bool,
        trained: str = "",
        published: str = "",
    ) -> None:
        self._on_dense = on_dense
        self._writes_log = writes_log
        self._strict = strict
        self._patience = thresholds.observations
        self._judge = Judge(thresholds, measured_as, trained=trained, published=published)
        self._trainer_logs: dict[str, object] = {}
        self._logged_kind: Kind | None = None
        self._latest_kind: Kind | None = None
        self._times_in_a_row = 0
        self._answered = False
        self._norm_was_known = False
        self._told_of_lost = False

    def remember(self, logs: Mapping[str, object]) -> None:
        """Remember what the trainer logs; it goes into the wording only."""
        self._trainer_logs.update(logs)

    def see(self, observation: Observation) -> Verdict | None:
        """Judge an observation, and log the verdict if it differs from the one before."""
        verdict = self._judge.judge(observation, self._trainer_logs)
        self._tell_of_lost(observation)
        if verdict is not None and (self._is_news(verdict.kind) or self._is_explained_now(observation, verdict.kind)):
            self._logged_kind = verdict.kind
            self._norm_was_known = GRADIENT_NORM in self._trainer_logs
            if self._writes_log:
                logger.log(self._level(verdict.kind), "sparsity-monitor: %s.", verdict)
        return verdict

    def answer(self, observation: Observation, verdict: Verdict | None, answer: Answer) -> None:
        """Do what was asked for if updates are dense: once, and in every process alike."""
        if self._answered or verdict is None or verdict.kind is not Kind.DENSE:
            return
        self._answered = True
        if self._on_dense == "stop":
            words = answer.stop()
            if self._writes_log:
                logger.warning('sparsity-monitor: on_dense="stop" %s.', words)
        elif callable(self._on_dense):
            self._call(self._on_dense, observation, verdict, answer)

    def _tell_of_lost(self, observation: Observation) -> None:
        lost = lost_weights(observation)
        if not lost or self._told_of_lost:
            return
        self._told_of_lost = True
        if self._writes_log:
            logger.warning(
                "sparsity-monitor: %s of %s trained weights are not measured any more, from step %d on. A verdict is "
                "given, and on_dense answered, only where it is the same whatever became of them.",
                f"{lost:,}",
                f"{lost + observation.trained_weights:,}",
                observation.step,
            )

    def _call(
        self, function: Callable[..., object], observation: Observation, verdict: Verdict, answer: Answer
    ) -> None:
        try:
            answer.call(function, observation, verdict)
        except Exception:
            if self._strict:
                raise
            logger.exception("sparsity-monitor: the function given as on_dense failed; training and monitor go on")

    def _is_news(self, kind: Kind) -> bool:
        # Near the border between them, verdicts may alternate between these two; the log must not.
        self._times_in_a_row = self._times_in_a_row + 1 if kind is self._latest_kind else 1
        self._latest_kind = kind
        if kind is self._logged_kind:
            return False
        return self._logged_kind is None or kind not in _CALM or self._times_in_a_row >= self._patience

    def _is_explained_now(self, observation: Observation, kind: Kind) -> bool:
        """Whether the reason for inert updates has become known: trainers log the gradient norm only now and then."""
        logged_without = kind is Kind.INERT and self._logged_kind is kind and not self._norm_was_known
        return logged_without and GRADIENT_NORM in self._trainer_logs and not observation.hidden.any()

    def _level(self, kind: Kind) -> int:
        if kind in (Kind.SPARSE, Kind.VERY_SPARSE):
            return logging.INFO
        if kind in (Kind.DENSIFYING, Kind.DENSE) and (self._on_dense is None or self._answered):
            return logging.INFO
        return logging.WARNING
