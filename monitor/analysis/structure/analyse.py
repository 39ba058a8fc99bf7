"""From two checkpoints to the structure of the update between them, one parameter after the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from monitor.analysis.pairs import Pair, Pairs
from monitor.analysis.structure.matrices import matrices_of
from monitor.analysis.structure.measured import MatrixStructure, Skipped, Structure, measure_matrix
from monitor.analysis.structure.settings import StructureSettings
from monitor.analysis.structure.sums import Sums
from monitor.analysis.structure.update import Update
from monitor.errors import ConfigurationError, name_some

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
        ConfigurationError: the device has not enough memory.
    """
    matrices: list[MatrixStructure] = []
    vectors, vector_count = Sums.nothing(), 0
    for name, work in plan.costs.items():
        advance(name, 0)
        try:
            found, rest = _measure(pairs.read(name), settings, device)
        except torch.OutOfMemoryError:
            raise ConfigurationError(
                f"{device.type} has not enough memory for {name} of shape {list(pairs.finetuned.shapes[name])}. Leave "
                "it out with --max-size or --only, or measure on the CPU, with CUDA_VISIBLE_DEVICES set to nothing."
            ) from None
        matrices += found
        if rest is not None:
            vectors, vector_count = vectors + rest, vector_count + 1
        advance(name, work)
    return Structure(settings, tuple(matrices), vectors, vector_count, plan.skipped)


def _measure(
    pair: Pair, settings: StructureSettings, device: torch.device
) -> tuple[list[MatrixStructure], Sums | None]:
    """Return the structure of each matrix of a parameter; or, if it has none, the sums of it."""
    base, finetuned = pair.base.to(device), pair.finetuned.to(device)
    update = Update.between(base, finetuned, settings.visible_dtype, settings.criterion)
    places = list(matrices_of(pair.name, tuple(update.base.shape)))
    found = [measure_matrix(place.name, pair.group, update.matrix(place), settings) for place in places]
    return found, None if found else Sums.of(update)


def default_device() -> torch.device:
    """Return the CUDA device where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
