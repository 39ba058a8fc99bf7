"""What a run hands on to its next attempt: who it is, in the trainer's state, and which weights it has touched."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from monitor.errors import BaseMismatchError, ConfigurationError
from monitor.observe.observer import UpdateObserver
from monitor.observe.ranks import Ranks
from monitor.training.directories import checkpoint_in, touched_in
from monitor.training.settings import RunSettings

if TYPE_CHECKING:
    from transformers import TrainerState

logger = logging.getLogger(__name__)

# The run's entry among the state's `stateful_callbacks`. Not the name of a callback class: the Trainer would try to
# rebuild that callback from it.
STATE_KEY = "sparsity_monitor"
# In a checkpoint: the Trainer's state; and beside the touched weights, the same of a loop of one's own.
_STATE_FILE = "trainer_state.json"
_OWN_STATE_FILE = "run.json"


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
        return cls.of_callbacks(state.stateful_callbacks)

    @classmethod
    def of_callbacks(cls, stateful_callbacks: Mapping[str, Any]) -> RunIdentity | None:
        """Return the identity among what a trainer's state has of its callbacks; None if there is none."""
        attributes = stateful_callbacks.get(STATE_KEY, {}).get("attributes", {})
        if "run_id" not in attributes:
            return None
        # A later version may have written more.
        known = {attribute.name for attribute in fields(cls)}
        return cls(**{name: value for name, value in attributes.items() if name in known})

    def write(self, state: TrainerState) -> None:
        """Put the identity into a trainer's state, which is saved with every checkpoint."""
        state.stateful_callbacks |= self.as_callbacks()

    def as_callbacks(self) -> dict[str, Any]:
        """Return the entry as a trainer's state has it among those of its callbacks."""
        return {STATE_KEY: {"args": {}, "attributes": asdict(self)}}

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


class Saved(NamedTuple):
    """What a checkpoint says of the training that saved it.

    Attributes:
        step: the optimizer step that it is of.
        identity: of the run that saved it; None where it was saved without the monitor.
    """

    step: int
    identity: RunIdentity | None

    @classmethod
    def parse(cls, text: str) -> Saved:
        """Return what a state says that was written as JSON.

        Raises:
            ValueError: it is none.
        """
        state = json.loads(text)
        try:
            return cls(int(state["global_step"]), RunIdentity.of_callbacks(state.get("stateful_callbacks", {})))
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError("it has no global_step, or entries of callbacks that cannot be read") from error

    def text(self) -> str:
        """Return it as a Trainer would write its state, as far as `parse` goes."""
        callbacks = {} if self.identity is None else self.identity.as_callbacks()
        return json.dumps({"global_step": self.step, "stateful_callbacks": callbacks}, indent=2)


def read_state(checkpoint: Path) -> str:
    """Return the state that a checkpoint was saved with.

    Raises:
        OSError: it has none.
    """
    own = touched_in(checkpoint) / _OWN_STATE_FILE
    return (own if own.is_file() else checkpoint / _STATE_FILE).read_text()


def resumed_from(given: int | str | Path | None, ranks: Ranks) -> Saved | None:
    """Return what the checkpoint says that a loop of one's own goes on from; None where it begins.

    The first process reads it, and tells the others, which may not see it.

    Args:
        given: the directory of the checkpoint, or its step where no run of ours saved it.
        ranks: the processes that train together, which all must call this.

    Raises:
        ConfigurationError: the directory holds no state of a run.
    """
    if not given:
        return None
    if isinstance(given, int):
        return Saved(given, None)
    text = ranks.all_or_none(lambda: _checked_state(Path(given)) if ranks.rank == 0 else "")
    return Saved.parse(ranks.from_first(text))


def _checked_state(checkpoint: Path) -> str:
    try:
        text = read_state(checkpoint)
        Saved.parse(text)
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"resume_from is {str(checkpoint)!r}, where no run has left its state: {error}. Expected the directory of "
            "a checkpoint that watch.save(directory) was called with. Of one that was saved without the monitor, give "
            "the number of optimizer steps that its weights have made, and the weights that training started from as "
            "`base`."
        ) from None
    return text


def write_state(checkpoint: Path, saved: Saved) -> None:
    """Write the state of a loop of one's own into its checkpoint."""
    own = touched_in(checkpoint) / _OWN_STATE_FILE
    own.parent.mkdir(parents=True, exist_ok=True)
    beside = own.with_suffix(".part")
    beside.write_text(saved.text())
    beside.replace(own)


def measured_as(settings: RunSettings) -> dict[str, Any]:
    """Return the settings that every attempt of a run must share, as JSON keeps them."""
    patterns = {"include": settings.include, "exclude": settings.exclude}
    # The order of patterns does not matter, and an empty list selects what no list does.
    kept = {name: sorted(set(some)) if some else None for name, some in patterns.items()}
    return {"criterion": settings.criterion, "visible_dtype": settings.visible_dtype, **kept}


def restore_touched(
    observer: UpdateObserver, checkpoint: Path | None, output: Path, saved: Saved, *, is_first: bool
) -> None:
    """Let a resumed observer go on from the touched weights that were saved with the checkpoint.

    Args:
        checkpoint: the one that was given; None where that is not known.
        output: where the training saves its checkpoints.
        saved: what the checkpoint says.
        is_first: whether this process writes to the log.
    """
    places = [] if checkpoint is None else [touched_in(checkpoint)]
    places.append(touched_in(checkpoint_in(output, saved.step)))
    if saved.identity is not None and saved.identity.output_directory:
        # Of a branch: it begins in another directory than the run whose checkpoint it goes on from.
        places.append(touched_in(checkpoint_in(Path(saved.identity.output_directory), saved.step)))
    found = observer.restore([place for place in places if is_of_this_run(place.parent, saved)])
    if not found and is_first:
        _warn_of_lost_touched(places, saved.step)


def _warn_of_lost_touched(places: Sequence[Path], step: int) -> None:
    logger.warning(
        "sparsity-monitor: no touched weights that this run saved at step %d were found in %s; counting goes on "
        "from the weights that differ from the base now. If the checkpoint lies elsewhere, name it as "
        "resume_from_checkpoint in the training arguments, not only in train(); in a loop of your own, as resume_from.",
        step,
        " or ".join(str(place) for place in places),
    )


def is_of_this_run(checkpoint: Path, saved: Saved) -> bool:
    """Return whether a checkpoint was saved by the same attempt of the same run as the one that was resumed.

    Another run on the same base may have left a checkpoint of the same step in the output directory.
    """
    try:
        return Saved.parse(read_state(checkpoint)) == saved
    except (OSError, ValueError):
        return False
