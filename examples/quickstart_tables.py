"""What the quickstart found, as tables: trainings of the same model side by side."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.table import Table

from monitor import Observation

COUNTED = "bits, bfloat16"


@dataclass(frozen=True)
class Training:
    """A training that has ended. Shares of right answers are from 0 to 1; the observation is the last one."""

    name: str
    run_id: str
    learning_rate: float
    right_before: float
    right_after: float
    observation: Observation


def summary(trainings: Sequence[Training]) -> Table:
    """Return a table with one column for each training."""
    caption = "Learning rate and bfloat16 weights make this difference: see the comments in examples/quickstart.py."
    table = Table(
        "", title="One model, trained in two ways", caption=caption, title_justify="left", caption_justify="left"
    )
    for training in trainings:
        table.add_column(training.name, justify="right")
    table.add_row("learning rate", *[f"{each.learning_rate:g}" for each in trainings])
    table.add_row("optimizer steps", *[str(each.observation.step) for each in trainings])
    table.add_row("right answers before, sampled", *[f"{each.right_before:.1%}" for each in trainings])
    table.add_row("right answers after, sampled", *[f"{each.right_after:.1%}" for each in trainings])
    shares = [_shares(each.observation, np.full(len(each.observation.groups), True)) for each in trainings]
    for kind in shares[0]:
        table.add_row(f"{kind} ({COUNTED})", *[f"{each[kind]:.1%}" for each in shares])
    return table


def per_layer(trainings: Sequence[Training]) -> Table:
    """Return a table with one row for each layer, and one for the weights outside of layers (-)."""
    table = Table("layer", title=f"Per layer ({COUNTED})", title_justify="left")
    layers = {group.layer for group in trainings[0].observation.groups}
    rows = {
        layer: [_shares(each.observation, _in_layer(each.observation, layer)) for each in trainings]
        for layer in sorted(layers, key=lambda layer: (layer is None, layer))
    }
    kinds = list(rows[None][0])
    for kind in kinds:
        for training in trainings:
            table.add_column(f"{kind}\n{training.name}", justify="right")
    for layer, shares in rows.items():
        cells = [f"{share[kind]:.1%}" for kind in kinds for share in shares]
        table.add_row("-" if layer is None else f"{layer:02}", *cells)
    return table


def _in_layer(observation: Observation, layer: int | None) -> np.ndarray:
    return np.array([group.layer == layer for group in observation.groups])


def _shares(observation: Observation, selected: np.ndarray) -> dict[str, float]:
    """Shares of the trained weights in the selected groups, from 0 to 1."""
    assert observation.step_changed is not None
    assert observation.touched is not None
    weights = np.array([group.trained_weights for group in observation.groups])[selected].sum()
    return {
        "cumulative sparsity": 1 - observation.changed[selected].sum() / weights,
        "step sparsity, last step": 1 - observation.step_changed[selected].sum() / weights,
        "touched": observation.touched[selected].sum() / weights,
    }
