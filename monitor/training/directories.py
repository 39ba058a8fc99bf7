"""Where the monitor's files are: in the output directory, and in each checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from monitor.report.spool.places import DIRECTORY

if TYPE_CHECKING:
    from transformers import TrainingArguments


def output_directory(args: TrainingArguments) -> Path:
    """Return the trainer's output directory."""
    return Path(args.output_dir or ".")


def own_directory(args: TrainingArguments) -> str:
    """Return the name of the monitor's directory in the output directory.

    Pushing to a hub uploads everything but names that start with "_". The spool must stay out: it is of no use there,
    and whoever opens and closes its files in this process gives up the locks on them.
    """
    return f"_{DIRECTORY}" if getattr(args, "push_to_hub", False) else DIRECTORY


def touched_in(checkpoint: Path) -> Path:
    """Return where a checkpoint keeps which weights were touched so far."""
    return checkpoint / DIRECTORY


def checkpoint_directory(args: TrainingArguments, step: int) -> Path:
    """Return where the Trainer saves the checkpoint of a step."""
    return checkpoint_in(output_directory(args), step)


def checkpoint_in(output: Path, step: int) -> Path:
    """Return where the Trainer saves the checkpoint of a step that it saves in an output directory."""
    return output / f"checkpoint-{step}"


def step_of(checkpoint: str, otherwise: int) -> int:
    """Return the step that a checkpoint is of; `otherwise` where its name does not say.

    >>> step_of("runs/first/checkpoint-40", otherwise=50), step_of("runs/first/best", otherwise=50)
    (40, 50)
    """
    step = Path(checkpoint).name.rpartition("-")[2]
    return int(step) if step.isdecimal() else otherwise
