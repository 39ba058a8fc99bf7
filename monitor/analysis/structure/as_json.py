"""A structure as JSON for machines: numbers as they were measured, null where there is none."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from monitor.analysis.structure.findings import findings_of
from monitor.analysis.structure.measured import MatrixStructure, Structure, entropy_rank_share, rank_share
from monitor.analysis.structure.profiles import Profile
from monitor.analysis.structure.spectrum import TOP
from monitor.analysis.structure.sums import TOP_COORDINATES, Sums
from monitor.observe.criterion import dtype_name
from monitor.observe.overlap import Overlap

_DECILES = np.linspace(0, 1, 11)


def structure_as_json(structure: Structure) -> dict[str, Any]:
    """Return what JSON can hold. Shares are from 0 to 1; definitions are in DEFINITIONS.md under the same names."""
    settings = structure.settings
    found: dict[str, Any] = _without_nan(
        {
            "measured_as": {
                "criterion": str(settings.criterion),
                "visible_dtype": dtype_name(settings.visible_dtype),
                "alpha": settings.share,
                "principal_rank": settings.principal_rank,
                "top_singular_values": TOP,
                "whole_spectrum_up_to": settings.whole_up_to,
            },
            "findings": [vars(finding) for finding in findings_of(structure)],
            "total": _total(structure),
            "matrices": [_matrix(matrix) for matrix in structure.matrices],
            "vectors": {"parameters": structure.vector_count, **_sums(structure.vectors)},
            "skipped": [each._asdict() for each in structure.skipped],
        }
    )
    return found


def _total(structure: Structure) -> dict[str, Any]:
    return {
        **_sums(structure.sums),
        "matrices": len(structure.matrices),
        "mean_rank_share": structure.mean(rank_share),
        "mean_entropy_rank_share": structure.mean(entropy_rank_share),
        "median_stable_rank": structure.median(lambda matrix: matrix.spectrum.stable_rank),
        "mean_top_share": structure.mean(lambda matrix: matrix.spectrum.top_share),
        "median_top_share": structure.median(lambda matrix: matrix.spectrum.top_share),
        "median_row_dispersion": structure.median(lambda matrix: matrix.rows.dispersion),
        "median_column_dispersion": structure.median(lambda matrix: matrix.columns.dispersion),
        "smallest": _overlap(structure.smallest),
        "largest": _overlap(structure.largest),
        "principal": _overlap(structure.principal),
    }


def _matrix(matrix: MatrixStructure) -> dict[str, Any]:
    return {
        "name": matrix.name,
        "layer": matrix.group.layer,
        "module": matrix.group.module,
        "stack": matrix.group.stack,
        "shape": list(matrix.shape),
        **_sums(matrix.sums),
        "spectrum": {**vars(matrix.spectrum), "method": str(matrix.spectrum.method)},
        "rows": _profile(matrix.rows),
        "columns": _profile(matrix.columns),
        "smallest": _overlap(matrix.smallest),
        "largest": _overlap(matrix.largest),
        "principal": {**_overlap(matrix.principal), "method": str(matrix.principal_method)},
    }


def _sums(sums: Sums) -> dict[str, Any]:
    return {
        "weights": sums.weights,
        "changed": sums.changed,
        "cumulative_density": sums.density,
        "without_size": sums.without_size,
        "base_non_finite": sums.base_non_finite,
        "squared_norm": sums.energy,
        "base_squared_norm": sums.base_energy,
        "relative_norm": sums.relative_norm,
        "top_coordinates": {f"{top:g}": share for top, share in zip(TOP_COORDINATES, sums.top_shares, strict=True)},
        "steps": {str(2**bucket): int(count) for bucket, count in enumerate(sums.steps) if count},
    }


def _profile(profile: Profile) -> dict[str, Any]:
    return {
        "lines": int(profile.counts.size),
        "deciles": np.quantile(profile.ratios, _DECILES).tolist(),
        "variance": profile.variance,
        "binomial_variance": profile.binomial_variance,
        "dispersion": profile.dispersion,
        "chance_deviation": profile.chance_deviation,
    }


def _overlap(overlap: Overlap) -> dict[str, Any]:
    return {
        "marked": overlap.reference,
        "changed_within": overlap.intersection,
        "expected_within": overlap.expected_intersection,
        "share": overlap.o1,
        "lift": overlap.lift,
    }


def _without_nan(value: Any) -> Any:
    """JSON has no NaN."""
    match value:
        case Mapping():
            return {key: _without_nan(each) for key, each in value.items()}
        case list():
            return [_without_nan(each) for each in value]
        case float() if not math.isfinite(value):
            return None
        case _:
            return value
