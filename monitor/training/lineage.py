"""Whose training begins: a run of its own, the next attempt of a run, or a branch of one. RUNS.md has the rule."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from monitor.errors import SpoolError
from monitor.report.messages.registration import new_run_id
from monitor.report.spool.file import SPOOL_FILE
from monitor.report.spool.items import Spool
from monitor.report.spool.places import DIRECTORY
from monitor.training.directories import checkpoint_in
from monitor.training.resume import RunIdentity, Saved, is_of_this_run
from monitor.training.settings import RunSettings
from monitor.training.surroundings import Surroundings
from monitor.training.trials import Trial


@dataclass(frozen=True)
class Experiment:
    """What was asked for; None where nothing was said.

    Attributes:
        default_name: of a run that is not named: the output directory's, and of a trial with its number.
    """

    run_id: str | None
    name: str | None
    default_name: str
    labels: Mapping[str, str] | None
    learning_rate: float | None

    @classmethod
    def of(cls, settings: RunSettings, surroundings: Surroundings) -> Experiment:
        """Return what the settings and the training say."""
        name = settings.run_name or surroundings.run_name
        default = surroundings.output.resolve().name
        return cls(settings.run_id, name, default, settings.labels, surroundings.learning_rate)

    def as_trial(self, trial: Trial) -> Experiment:
        """Return the same of one trial, which has a name and an identity of its own."""
        name = trial.named(self.name or self.default_name)
        run_id = None if self.run_id is None else trial.identified(self.run_id)
        return replace(self, run_id=run_id, name=None, default_name=name)

    @property
    def new_name(self) -> str:
        """The name of a run that starts here."""
        return self.name or self.default_name

    def make_run_id(self) -> str:
        """Return the identity of a run that starts here."""
        return self.run_id or new_run_id(self.new_name)

    def differs_from(self, earlier: RunIdentity) -> str:
        """Return what is called otherwise than in a checkpoint, in words; empty if nothing is."""
        pairs = {
            "run_name": (self.name, earlier.name),
            "labels": (None if self.labels is None else dict(self.labels), earlier.labels),
            "learning_rate": (self.learning_rate, earlier.learning_rate),
        }
        different = [
            f"{what} is {now!r} instead of {before!r}"
            for what, (now, before) in pairs.items()
            if None not in (now, before) and now != before
        ]
        return " and ".join(different)


@dataclass(frozen=True)
class Place:
    """What the output directory of a training that begins says of the run that it goes on from.

    Attributes:
        output: the directory, in full.
        is_original: the run has saved its checkpoints here, and its spool is here.
        holds_run: the checkpoint that is resumed is here, or the run's spool.
        original_is_elsewhere: the directory that the run has saved its checkpoints in is another one, and is there.
    """

    output: Path
    is_original: bool
    holds_run: bool
    original_is_elsewhere: bool

    @classmethod
    def of(cls, settings: RunSettings, surroundings: Surroundings, earlier: RunIdentity) -> Place:
        """Look at the output directory."""
        output = surroundings.output.resolve()
        original = Path(earlier.output_directory) if earlier.output_directory else output
        spool_is_here = _has_spool_of(output, earlier.run_id)
        apart = settings.directory is not None and attempts_known(Path(settings.directory), earlier.run_id) > 0
        return cls(
            output=output,
            is_original=output == original and (spool_is_here or apart),
            holds_run=spool_is_here or _holds_checkpoint(output, Saved(surroundings.step, earlier)),
            original_is_elsewhere=output != original and _has_spool_of(original, earlier.run_id),
        )


@dataclass(frozen=True)
class Lineage:
    """Which run a training is of.

    Attributes:
        name: the run's, for people.
        attempt: at least; the reporter counts on from those in its spool.
        is_resume: it is the run that the checkpoint names.
        parent_run, parent_step: the run and the step that the run branched from; empty if it did not.
        words: what was decided, why, and what to do for the other thing; empty for a training from its start.
        is_surprising: it may not be what was meant.
    """

    run_id: str
    name: str
    attempt: int = 1
    is_resume: bool = False
    parent_run: str = ""
    parent_step: int = 0
    words: str = ""
    is_surprising: bool = False


def new_lineage(experiment: Experiment, known_attempts: int) -> Lineage:
    """Return whose training begins at its start.

    Args:
        known_attempts: of the run that was given, in the spool.
    """
    run_id = experiment.make_run_id()
    words = (
        f"starts run {run_id} again from its beginning, as run_id says: in the service, this attempt replaces what "
        "earlier ones reported. For a run of its own, leave run_id out or give another one"
    )
    again = bool(known_attempts)
    return Lineage(run_id, experiment.new_name, words=words if again else "", is_surprising=again)


def unnamed_lineage(experiment: Experiment, step: int) -> Lineage:
    """Return whose training goes on from a checkpoint that was saved without the monitor."""
    run_id = experiment.make_run_id()
    words = f"starts run {run_id} at step {step}: the checkpoint was saved without the monitor, and names no run"
    return Lineage(run_id, experiment.new_name, words=words)


def resumed_lineage(experiment: Experiment, earlier: RunIdentity, step: int, place: Place) -> Lineage:
    """Return whose training goes on from a checkpoint.

    Args:
        earlier: what the checkpoint says.
        place: what the output directory says.
    """
    same, branch = partial(_same, experiment, earlier, step), partial(_branch, experiment, earlier, step)
    different = experiment.differs_from(earlier)
    if experiment.run_id is not None:
        return same("as run_id says") if experiment.run_id == earlier.run_id else branch("that run_id was given")
    if place.is_original:
        called = f", although {different}. For a run of its own, give it another run_id" if different else ""
        return same(f"in its own output directory{called}", is_surprising=bool(different))
    if not place.holds_run:
        why = f"the output directory {place.output} has neither its checkpoint nor its spool"
        back = f", or train in {earlier.output_directory}" if earlier.output_directory else ""
        return branch(why, back=back, is_surprising=not different)
    if different:
        return branch(f"{different}, and {place.output} is a copy of its output directory or has lost its spool")
    if place.original_is_elsewhere:
        why = (
            f"of which {place.output} is a copy. {earlier.output_directory} is still there: if both go on, give one of "
            "them another run_name or run_id, since a service takes one training of a run at a time"
        )
        return same(why, is_surprising=True)
    return same(f"whose checkpoint or spool is in {place.output}")


def _same(experiment: Experiment, earlier: RunIdentity, step: int, why: str, *, is_surprising: bool = False) -> Lineage:
    name = experiment.name or earlier.name or experiment.default_name
    return Lineage(
        earlier.run_id,
        name,
        earlier.attempt + 1,
        is_resume=True,
        parent_run=earlier.parent_run,
        parent_step=earlier.parent_step,
        words=f"resumes run {earlier.run_id} at step {step}, {why}",
        is_surprising=is_surprising,
    )


def _branch(
    experiment: Experiment, earlier: RunIdentity, step: int, why: str, *, back: str = "", is_surprising: bool = False
) -> Lineage:
    run_id = experiment.make_run_id()
    return Lineage(
        run_id,
        experiment.new_name,
        parent_run=earlier.run_id,
        parent_step=step,
        words=(
            f"starts run {run_id}, a branch of run {earlier.run_id} at step {step}, because {why}. "
            f"To go on with run {earlier.run_id} instead, give run_id={earlier.run_id!r}{back}"
        ),
        is_surprising=is_surprising,
    )


def attempts_known(directory: Path, run_id: str) -> int:
    """Return the latest attempt of a run in the spool of a directory; 0 where there is none."""
    if not (directory / SPOOL_FILE).is_file():
        return 0
    try:
        with closing(Spool(directory)) as spool:
            return spool.latest_attempt(run_id)
    except SpoolError:
        return 0


def _has_spool_of(output: Path, run_id: str) -> bool:
    # The second one is its name where the output directory is pushed to a hub.
    return any(attempts_known(output / name, run_id) for name in (DIRECTORY, f"_{DIRECTORY}"))


def _holds_checkpoint(output: Path, saved: Saved) -> bool:
    """Return whether a directory has the checkpoint that is resumed, under whatever name."""
    usual = checkpoint_in(output, saved.step)
    if is_of_this_run(usual, saved):
        return True
    try:
        others = [output, *(path for path in output.iterdir() if path.is_dir() and path != usual)]
    except OSError:
        return False
    return any(is_of_this_run(path, saved) for path in others)
