"""Whose training begins when one goes on from a checkpoint: the table of monitor/training/RUNS.md."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from monitor.report.spool.places import DIRECTORY

STEP = 2
SAME, BRANCH = "the same run", "a branch"


class Start(NamedTuple):
    """Where a training begins."""

    output: Path
    checkpoint: Path


# What is done with the run's output directory before, and where the next training begins.
Prepare = Callable[[Path], Start]


def in_place(run: Path) -> Start:
    return Start(run, run / f"checkpoint-{STEP}")


def moved(run: Path) -> Start:
    return in_place(run.rename(run.with_name("moved")))


def linked(run: Path) -> Start:
    run.with_name("link").symlink_to(run)
    return in_place(run.with_name("link"))


def copied(run: Path) -> Start:
    return in_place(Path(shutil.copytree(run, run.with_name("copied"))))


def copied_without_spool(run: Path) -> Start:
    start = copied(run)
    shutil.rmtree(start.output / DIRECTORY)
    return start


def spool_lost(run: Path) -> Start:
    shutil.rmtree(run / DIRECTORY)
    return in_place(run)


def fetched(run: Path) -> Start:
    """As on another machine that got the checkpoint alone."""
    start = copied_without_spool(run)
    shutil.rmtree(run)
    return start


def checkpoint_renamed(run: Path) -> Start:
    return Start(run, (run / f"checkpoint-{STEP}").rename(run / "last-checkpoint"))


def checkpoint_kept_elsewhere(run: Path) -> Start:
    return Start(run, Path(shutil.move(run / f"checkpoint-{STEP}", run.with_name("kept"))))


def elsewhere(run: Path) -> Start:
    return Start(run.with_name("elsewhere"), run / f"checkpoint-{STEP}")


@dataclass(frozen=True)
class Case:
    """One instance of a row.

    Attributes:
        settings: of the callback.
        arguments: of the trainer.
    """

    prepare: Prepare
    settings: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """What decides, and the run that a training is of then."""

    where: str
    answer: str
    cases: tuple[Case, ...]


RUN_ID = "{run_id}"
"""In a case's settings: that of the run whose checkpoint is resumed."""

ROWS = (
    Row(
        "the run's own output directory, whatever it is called or set to",
        SAME,
        (
            Case(in_place),
            Case(in_place, {"run_name": "renamed", "labels": {"seed": "2"}}, {"learning_rate": 5e-5}),
            Case(linked, {"run_name": "renamed"}),
            Case(checkpoint_kept_elsewhere, {"run_name": "renamed"}),
            Case(checkpoint_renamed, {"labels": {}}),
        ),
    ),
    Row(
        "that directory moved, copied or fetched, or its spool lost, with the checkpoint or the spool in it",
        SAME,
        (Case(moved), Case(copied), Case(copied_without_spool), Case(fetched), Case(spool_lost)),
    ),
    Row(
        "such a copy with another `run_name`, other `labels` or another `learning_rate`",
        BRANCH,
        (
            Case(copied, {"run_name": "another"}),
            Case(copied_without_spool, {"labels": {"seed": "2"}}),
            Case(moved, {}, {"learning_rate": 5e-5}),
            Case(fetched, {}, {"run_name": "another"}),
        ),
    ),
    Row(
        "another output directory, with the checkpoint given by its path",
        BRANCH,
        (
            Case(elsewhere),
            Case(elsewhere, {"run_name": "another", "labels": {"seed": "2"}}, {"learning_rate": 5e-5}),
            Case(elsewhere, {"criterion": "atol=1e-5"}),
        ),
    ),
    Row(
        "anywhere, with the run's own `run_id`",
        SAME,
        (Case(elsewhere, {"run_id": RUN_ID}), Case(copied, {"run_id": RUN_ID, "run_name": "renamed"})),
    ),
    Row(
        "anywhere, with another `run_id`",
        BRANCH,
        (Case(in_place, {"run_id": "another"}), Case(elsewhere, {"run_id": "another"})),
    ),
)


def as_markdown() -> str:
    """Return the table."""
    rows = [f"| {row.where} | {row.answer} |" for row in ROWS]
    return "\n".join(["| a training that goes on from a checkpoint in … | is |", "|---|---|", *rows])
