"""What a run hands on to its next attempt: who it is, in the trainer's state, and which weights it has touched."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from transformers import TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from monitor.errors import BaseMismatchError, ConfigurationError
from monitor.observe.observer import UpdateObserver
from monitor.training.directories import checkpoint_in, touched_directory, touched_in
from monitor.training.settings import RunSettings

logger = logging.getLogger(__name__)

# The run's entry among the state's `stateful_callbacks`. Not the name of a callback class: the Trainer would try to
# rebuild that callback from it.
STATE_KEY = "sparsity_monitor"


@dataclass(frozen=True)
class RunIdentity:
    """What a checkpoint says of the run that saved it.

    Attributes:
        run_id: stays the same when the run is resumed.
        attempt: 1 for the first start.
        base_fingerprint: see UpdateObserver; empty where the checkpoint does not say.
        measured_as: see `measured_as`; empty where the checkpoint does not say.
        output_directory: where the run saves its checkpoints, in full; empty where the checkpoint does not say.
        name, labels, learning_rate: what people tell trainings apart by; None where the checkpoint does not say.
        parent_run, parent_step: the run and the step that this one branched from; empty for one that did not.
    """

    run_id: str
    attempt: int = 0
    base_fingerprint: str = ""
    measured_as: Mapping[str, Any] = field(default_factory=dict)
    output_directory: str = ""
    name: str | None = None
    labels: Mapping[str, str] | None = None
    learning_rate: float | None = None
    parent_run: str = ""
    parent_step: int = 0

    @classmethod
    def of(cls, state: TrainerState) -> RunIdentity | None:
        """Return the identity in a trainer's state; None if no run of ours saved it."""
        attributes = state.stateful_callbacks.get(STATE_KEY, {}).get("attributes", {})
        if "run_id" not in attributes:
            return None
        # A later version may have written more.
        known = {attribute.name for attribute in fields(cls)}
        return cls(**{name: value for name, value in attributes.items() if name in known})

    def write(self, state: TrainerState) -> None:
        """Put the identity into a trainer's state, which is saved with every checkpoint."""
        state.stateful_callbacks[STATE_KEY] = {"args": {}, "attributes": asdict(self)}

    def check_settings(self, settings: RunSettings) -> None:
        """Check that the run goes on being measured as it was.

        Raises:
            ConfigurationError: a setting differs; the message names it.
        """
        different = [
            f"{name} is {now!r} instead of {self.measured_as[name]!r}"
            for name, now in measured_as(settings).items()
            if name in self.measured_as and self.measured_as[name] != now
        ]
        if different:
            raise ConfigurationError(
                f"run {self.run_id} was measured otherwise before: {'; '.join(different)}. Resume it with what it was "
                "started with, or give another run_id, for a branch of that run."
            )

    def is_measured_against(self, settings: RunSettings) -> bool:
        """Return whether a branch with these settings is to be measured against the run's own base.

        Not where another base was given for it; and where it rounds or selects the weights in another way, the
        fingerprints do not compare.
        """
        now = measured_as(settings)
        del now["criterion"]
        return settings.base is None and all(self.measured_as.get(name, value) == value for name, value in now.items())

    def check_base(self, observer: UpdateObserver, source: str) -> None:
        """Check that the run, or a branch of it, goes on being measured against the same base.

        Args:
            source: where the observer's base comes from, for the message.

        Raises:
            BaseMismatchError: the base differs.
        """
        if self.base_fingerprint not in ("", observer.base_fingerprint):
            raise BaseMismatchError(
                f"the base read from {source!r} is not the one that run {self.run_id} started from (fingerprint "
                f"{observer.base_fingerprint} instead of {self.base_fingerprint}). Give the original weights as "
                "`base`; or, for a branch of that run that is measured against others, give those, and another run_id."
            )


def measured_as(settings: RunSettings) -> dict[str, Any]:
    """Return the settings that every attempt of a run must share, as JSON keeps them."""
    patterns = {"include": settings.include, "exclude": settings.exclude}
    # The order of patterns does not matter, and an empty list selects what no list does.
    kept = {name: sorted(set(some)) if some else None for name, some in patterns.items()}
    return {"criterion": settings.criterion, "visible_dtype": settings.visible_dtype, **kept}


def restore_touched(observer: UpdateObserver, args: TrainingArguments, state: TrainerState) -> None:
    """Let a resumed observer go on from the touched weights that were saved with the checkpoint."""
    # The Trainer does not tell its callbacks which checkpoint was given to train().
    given = args.resume_from_checkpoint
    places = [touched_in(Path(given))] if isinstance(given, str | Path) else []
    places.append(touched_directory(args, state.global_step))
    identity = RunIdentity.of(state)
    if identity is not None and identity.output_directory:
        # Of a branch: it begins in another directory than the run whose checkpoint it goes on from.
        places.append(touched_in(checkpoint_in(Path(identity.output_directory), state.global_step)))
    found = observer.restore([place for place in places if is_of_this_run(place.parent, state)])
    if not found and state.is_world_process_zero:
        logger.warning(
            "sparsity-monitor: no touched weights that this run saved at step %d were found in %s; counting goes on "
            "from the weights that differ from the base now. If the checkpoint lies elsewhere, name it as "
            "resume_from_checkpoint in the training arguments, not only in train().",
            state.global_step,
            " or ".join(str(place) for place in places),
        )


def is_of_this_run(checkpoint: Path, state: TrainerState) -> bool:
    """Return whether a checkpoint was saved by the same attempt of the same run as the one that was resumed.

    Another run on the same base may have left a checkpoint of the same step in the output directory.
    """
    try:
        saved = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
    except (OSError, ValueError, TypeError):
        return False
    return saved.global_step == state.global_step and RunIdentity.of(saved) == RunIdentity.of(state)
