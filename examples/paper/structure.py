"""The structure of what a run changed, measured by the monitor's own offline tool on the weights that it left."""

from functools import cache
from pathlib import Path

import torch

from monitor.analysis.pairs import Pairs
from monitor.analysis.structure.analyse import Plan, structure_between
from monitor.analysis.structure.measured import Structure
from monitor.analysis.structure.settings import StructureSettings
from paper.results import WEIGHTS_FOLDER


# Two claims look at it.
@cache
def structure_of_update(base: Path, run: Path) -> Structure:
    """Measure the weights in a run's directory against the base, in bfloat16."""
    pairs, settings = Pairs.open(base, run / WEIGHTS_FOLDER), StructureSettings()
    plan = Plan.of(pairs, settings)
    return structure_between(pairs, settings, plan, torch.device("cpu"), advance=lambda name, work: None)
