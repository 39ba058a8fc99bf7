"""From two checkpoints to the structure of the update between them, one parameter after the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch

from monitor.analysis.pairs import Pairs
from monitor.analysis.structure.matrices import matrices_of
from monitor.analysis.structure.measured import MatrixStructure, Skipped, Structure, measure_matrix
from monitor.analysis.structure.settings import StructureSettings
from monitor.analysis.structure.sums import Sums
from monitor.analysis.structure.update import Update
from monitor.errors import ConfigurationError, name_some
from monitor.observe.weights.groups import GroupKey

# Told what is being measured, and how much work is behind it; the units are those of `cost`.
Advance = Callable[[str, float], None]


@dataclass(frozen=True)
class Plan:
    """Which parameters are measured, in which order, and how much work each is."""

    costs: Mapping[str, float]
    skipped: tuple[Skipped, ...]

    @classmethod
    def of(cls, pairs: Pairs, settings: StructureSettings) -> Plan:
        """Plan without reading any weights.

        Raises:
            ConfigurationError: nothing would be measured.
        """
        costs, skipped = {}, []
        for name in pairs.names:
            shape = pairs.finetuned.shapes[name]
            why = settings.why_skipped(name, math.prod(shape))
            if why is None:
                costs[name] = cost(name, shape)
            else:
                skipped.append(Skipped(name, math.prod(shape), why))
        if not costs:
            raise ConfigurationError(
                f"nothing is left to measure: of {len(skipped):,} parameters none fits --only and --max-size; there "
                f"are {name_some(list(pairs.names), 3)}. Give other ones."
            )
        return cls(costs, tuple(skipped))


def cost(name: str, shape: tuple[int, ...]) -> float:
    """Return about how much work a parameter is: of each matrix, rows · columns · the smaller side; and reading it."""
    reading = 100.0 * math.prod(shape)
    return reading + sum(math.prod(place.shape) * min(place.shape) for place in matrices_of(name, shape))


def structure_between(
    pairs: Pairs, settings: StructureSettings, plan: Plan, device: torch.device, advance: Advance
) -> Structure:
    """Measure all that is planned.

    Memory is that of a few copies of the largest parameter, on the host and on the device.

    Raises:
        CheckpointError: a file cannot be read.
    """
    matrices: list[MatrixStructure] = []
    vectors, vector_count = Sums.nothing(), 0
    for name, work in plan.costs.items():
        advance(name, 0)
        _, group, base, finetuned = pairs.read(name)
        update = Update.between(base.to(device), finetuned.to(device), settings.visible_dtype, settings.criterion)
        del base, finetuned
        found = list(_matrices(name, group, update, settings))
        matrices += found
        if not found:
            vectors, vector_count = vectors + Sums.of(update), vector_count + 1
        advance(name, work)
    return Structure(settings, tuple(matrices), vectors, vector_count, plan.skipped)


def _matrices(name: str, group: GroupKey, update: Update, settings: StructureSettings) -> Iterator[MatrixStructure]:
    for place in matrices_of(name, tuple(update.base.shape)):
        yield measure_matrix(place.name, group, update.matrix(place), settings)


def default_device() -> torch.device:
    """Return the CUDA device where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
