"""What the start of a run has to know of the training around it, be that a Trainer's or a loop of one's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from monitor.report.spool.places import DIRECTORY
from monitor.training.resume import RunIdentity, Saved
from monitor.training.synchronisation import Synchronisations
from monitor.training.trials import Trial


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """A training that begins.

    Attributes:
        output: its output directory.
        is_first: whether this process is the one that reports and writes to the log.
        identify: takes the identity of the run, in the process that reports, to be saved with each checkpoint.
        own_directory: name of the monitor's directory in the output directory.
        run_name: what the training calls itself; None where it has no name.
        learning_rate: None where it is not known.
        planned_steps: optimizer steps of the whole training; 0 where that is not known.
        resumed: what the checkpoint says that the training goes on from; None where it begins.
        checkpoint: the directory of that checkpoint; None where only its step is known.
        trial: finds the trial of a hyperparameter search that begins, given where spools are kept; None outside of one.
        merges_adapters: whether adapters are merged into the weights below them now and then.
        published: what is published of such trainings, for the verdicts' wording.
        synchronisations: when the weights are handed over to what generates.
        put_last: what to do where weights are written to after they were observed.
    """

    output: Path
    is_first: bool
    identify: Callable[[RunIdentity], None]
    own_directory: str = DIRECTORY
    run_name: str | None = None
    learning_rate: float | None = None
    planned_steps: int = 0
    resumed: Saved | None = None
    checkpoint: Path | None = None
    trial: Callable[[Path], Trial | None] = lambda _directory: None
    merges_adapters: bool = False
    published: str = ""
    synchronisations: Synchronisations = field(default_factory=Synchronisations)
    put_last: str

    @property
    def step(self) -> int:
        """The step that the weights are of."""
        return 0 if self.resumed is None else self.resumed.step
