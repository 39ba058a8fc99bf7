"""Row and column profiles in full, as a safetensors file: what JSON has deciles of."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save

from monitor.analysis.structure.measured import Structure
from monitor.analysis.structure.profiles import Lines
from monitor.analysis.structure.source import Source
from monitor.observe.criterion import dtype_name
from monitor.observe.masks.file import written_whole

FORMAT = "sparsity-monitor profiles"


def write_profiles(structure: Structure, source: Source, path: Path) -> None:
    """Write "NAME/rows" and "NAME/columns" of each matrix: how many weights of each line changed, int64.

    The file appears under `path` only when it is complete.

    Raises:
        OSError: it cannot be written; what was at `path` is still there.
    """
    counts = {
        f"{matrix.name}/{lines}": torch.from_numpy(matrix.along(lines).counts)
        for matrix in structure.matrices
        for lines in Lines
    }
    measured = {
        "format": FORMAT,
        "base": source.base,
        "finetuned": source.finetuned,
        "criterion": str(structure.settings.criterion),
        "visible_dtype": dtype_name(structure.settings.visible_dtype),
    }
    # safetensors itself reports a full disk as an error of its own kind, and writes over what was there.
    with written_whole(path) as file:
        file.write(save(counts, measured))
