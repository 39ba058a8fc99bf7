"""Results for machines: what cannot be divided is null."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from monitor.analysis.masks.combination import Combined
from monitor.analysis.masks.comparison import Compared, Comparison
from monitor.analysis.masks.overlap import Chance
from monitor.analysis.masks.published import CAVEAT, JACCARDS, JACCARDS_SOURCE, OVERLAPS, OVERLAPS_SOURCE


def comparison_as_json(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as what `json.dumps` takes."""
    masks = comparison.masks
    return {
        "masks": [{"mask": letter, **_mask(comparison, position)} for position, letter in enumerate(masks.letters)],
        "warnings": list(masks.warnings),
        "left_out": list(masks.left_out),
        "random_control_seed": None if comparison.counts.control is None else comparison.seed,
        "pairs": [_pair(comparison, a, b) for a, b in comparison.pairs],
        "published": {
            "overlaps_percent": {"source": OVERLAPS_SOURCE, "rows": [row._asdict() for row in OVERLAPS]},
            "jaccard": {"source": JACCARDS_SOURCE, "rows": [row._asdict() for row in JACCARDS]},
        },
        "note": CAVEAT,
    }


def mask_as_json(described: Comparison) -> dict[str, Any]:
    """Return what is known of one mask as what `json.dumps` takes."""
    parts = described.parts
    return {
        **_mask(described, 0),
        "layers": [{"layer": label, **_density(described, 0, where)} for label, where in parts.layers.items()],
        "modules": [{"module": label, **_density(described, 0, where)} for label, where in parts.modules.items()],
    }


def combined_as_json(made: Combined) -> dict[str, Any]:
    """Return how many weights a combined mask has, and how many chance would give, as what `json.dumps` takes."""
    return {"weights": made.weights, "ones": made.ones, "expected_ones": made.expected}


def _mask(comparison: Comparison, position: int) -> dict[str, Any]:
    file = comparison.masks.files[position]
    made: dict[str, Any] = {name: file.fields[name] for name in ("made_by", "made_of") if name in file.fields}
    return {
        "path": comparison.masks.paths[position],
        **vars(file.metadata),
        **made,
        **_density(comparison, position, comparison.everywhere),
    }


def _density(comparison: Comparison, position: int, parameters: Sequence[int]) -> dict[str, Any]:
    density = comparison.density(position, parameters)
    return {"weights": density.weights, "ones": density.ones, "density": _number(density.share)}


def _pair(comparison: Comparison, a: int, b: int) -> dict[str, Any]:
    return {
        "a": comparison.masks.letters[a],
        "b": comparison.masks.letters[b],
        **_compared(comparison.whole(a, b)),
        "layers": [{"layer": label, **_compared(part)} for label, part in comparison.layers(a, b).items()],
        "modules": [{"module": label, **_compared(part)} for label, part in comparison.modules(a, b).items()],
    }


def _compared(compared: Compared) -> dict[str, Any]:
    overlap = compared.overlap
    found: dict[str, Any] = {
        "weights": overlap.counts.weights,
        "ones_a": overlap.counts.changed,
        "ones_b": overlap.counts.reference,
        **_observed(overlap.by_matrix),
        "chance": {"whole": _chance(overlap.whole), "by_matrix": _chance(overlap.by_matrix)},
    }
    if compared.control is not None:
        control = compared.control.by_matrix
        found["random_control"] = {
            **_observed(control),
            "lift": _number(control.lift),
            "z_score": _number(control.z_score),
        }
    if compared.updates is not None:
        updates = compared.updates
        found["updates"] = vars(updates) | {
            "sign_agreement": _number(updates.sign_agreement),
            "cosine": _number(updates.cosine),
            "cosine_in_both": _number(updates.cosine_in_both),
        }
    return found


def _observed(chance: Chance) -> dict[str, Any]:
    counts = chance.observed
    return {
        "intersection": counts.intersection,
        "o1": _number(counts.o1),
        "o2": _number(counts.o2),
        "jaccard": _number(counts.jaccard),
    }


def _chance(chance: Chance) -> dict[str, Any]:
    return {
        "intersection": chance.expected,
        "standard_deviation": math.sqrt(chance.variance),
        "o1": _number(chance.o1),
        "o2": _number(chance.o2),
        "jaccard": _number(chance.jaccard),
        "lift": _number(chance.lift),
        "z_score": _number(chance.z_score),
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
