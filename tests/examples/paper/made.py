"""Results as trainings leave them, without training."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from paper.claims.claim import Runs
from paper.experiments import FULL, Experiment, all_experiments
from paper.results import GroupCounts, Result, settings_of

TRAINED = 1000


def experiment(name: str) -> Experiment:
    return next(each for each in all_experiments() if each.name == name)


def result(name: str, sparsity: float, **changes: Any) -> Result:
    """A result of 1,000 weights, of which the given share has not changed at any tolerance."""
    changed = round(TRAINED * (1 - sparsity))
    values: dict[str, Any] = {
        "settings": settings_of(experiment(name), FULL),
        "run_id": name,
        "seconds": 60.0,
        "processor_seconds": 50.0,
        "right_answers": 0.6,
        "step": 150,
        "trained": TRAINED,
        "changed": changed,
        "step_changed": changed,
        "touched": changed,
        "hidden": 0,
        "changed_at": {"1e-08": changed, "1e-06": changed, "1e-05": changed, "0.0001": changed},
        "norm": 1.0,
        "groups": (GroupCounts(0, "mlp.up_proj", TRAINED, changed),),
        "curve": ((1, 1.0, 1.0), (150, sparsity, sparsity)),
        "directory": Path(name),
    }
    return Result(**values | changes)


def runs(**sparsities: float) -> Runs:
    """Results by the names of their experiments, with _ in place of -."""
    names = {name.replace("_", "-"): sparsity for name, sparsity in sparsities.items()}
    return Runs({name: result(name, sparsity) for name, sparsity in names.items()}, Path("base-model"), 0.4)


def as_json(made: Result) -> dict[str, Any]:
    """What is kept of a result in its file."""
    return {name: value for name, value in asdict(made).items() if name != "directory"}
