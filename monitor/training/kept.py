"""What is kept of a training: the weights in its checkpoints and at its end, which need not be those observed."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch

from monitor.observe.comparison import Comparison
from monitor.observe.observation import Observation
from monitor.observe.observer import UpdateObserver
from monitor.report.log.shell import shown
from monitor.training.saved_weights import SavedWeights

logger = logging.getLogger(__name__)


def compare_saved(observer: UpdateObserver, checkpoint: Path, step: int, *, writes_log: bool) -> Comparison | None:
    """Compare the weights that were saved just now with the base. All processes must call it.

    They are those that the model holds, unless something has exchanged them for the time of saving only, as a callback
    that saves a moving average does. Then the checkpoint is read.

    Returns:
        None where the checkpoint has to be read and cannot be, which is said.
    """
    ranks, measured = observer.ranks, observer.measured
    saved = ranks.all_or_none(lambda: SavedWeights(checkpoint))
    exchanged = ranks.all_or_none(lambda: saved.differ_from(measured))
    given: Mapping[str, torch.Tensor] | None = None
    if not ranks.all_say(not exchanged):
        given = saved
        if not ranks.all_say(saved.has_all(measured)):
            if writes_log:
                logger.warning(
                    "sparsity-monitor: the weights saved at step %d are not those that the model holds, and cannot be "
                    "counted, because %s lacks some under the names that the model has for them.",
                    step,
                    shown(checkpoint),
                )
            return None
    return observer.compare(step, given)


def describe_saved(saved: Comparison, observed: Observation, mask: Path) -> str:
    """Return what to say of saved weights that are not the observed ones."""
    return (
        f"the weights saved at step {saved.step} are not those observed there: {_changed(saved)} differ from the base, "
        f"and {int(observed.changed.sum()):,} did when they were observed. A schedule-free optimizer exchanges weights "
        f"for evaluation, and a callback may for saving. The mask of what was saved is {shown(mask)}"
    )


def describe_final(final: Comparison, observed: Observation | None) -> str:
    """Return what to say of the weights that a training ends with, and that the update mask is of."""
    if observed is not None and final.step != observed.step:
        return (
            f"the weights at the end are those of step {final.step}, the best model that was saved: {_changed(final)} "
            f"differ from the base. The update mask is theirs, and the last observation is of step {observed.step}"
        )
    if observed is not None and not final.as_observed:
        return (
            f"the weights at the end, of step {final.step}, are not those observed there: {_changed(final)} differ "
            f"from the base, and {int(observed.changed.sum()):,} did when they were observed. The update mask is of "
            "the weights at the end. A schedule-free optimizer exchanges weights for evaluation; what a callback does "
            "to weights after a step is observed where SparsityCallback comes last, as with attach()"
        )
    return f"at the end, at step {final.step}, {_changed(final)} differ from the base. The update mask is theirs"


def _changed(compared: Comparison) -> str:
    measured = sum(group.weights - group.frozen_weights for group in compared.groups)
    return f"{int(compared.changed.sum()):,} of {measured:,} trained weights"
