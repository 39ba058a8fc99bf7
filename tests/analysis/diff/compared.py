"""Two state dicts on disk, compared."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from monitor.analysis.diff.difference import Difference
from monitor.analysis.diff.run import difference
from monitor.analysis.pairs import Pairs
from monitor.observe.criterion import Criterion
from monitor.observe.kernels.contract import Rules
from monitor.observe.ranks import Alone

CPU = torch.device("cpu")


def rules(criterion: str = "bits", dtype: torch.dtype = torch.bfloat16, tolerances: tuple[float, ...] = ()) -> Rules:
    return Rules(dtype, Criterion.parse(criterion), tolerances)


def compared(base: Path, finetuned: Path, how: Rules | None = None, mask: Path | None = None) -> Difference:
    return difference(Pairs.open(base, finetuned), how or rules(), Alone(), mask=mask, device=CPU)


def on_disk(directory: Path, weights: dict[str, torch.Tensor]) -> Path:
    directory.mkdir()
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, directory / "model.safetensors")
    return directory
