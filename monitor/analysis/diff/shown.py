"""A difference for people: what terminal and page say alike."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from monitor.analysis.diff.difference import Changes, Difference
from monitor.errors import name_some
from monitor.observe.criterion import dtype_name
from monitor.percent import percent

# What is compared with: nothing else is called sparsity here.
CUMULATIVE = "Cumulative sparsity: the share of visible weights that equal the base"


def share(changes: Changes, tolerance: float | None = None) -> str:
    """Return the share of unchanged weights, by the criterion or at a tolerance; of no weights, why there are none."""
    if not changes.weights:
        return "frozen" if changes.frozen else "–"
    return percent(changes.unchanged_at(tolerance))


def criteria(difference: Difference) -> list[str]:
    """Return the criterion and the tolerances, short enough to stand over columns: "bits", "1e-08"."""
    return [str(difference.rules.criterion), *(f"{tolerance:.3g}" for tolerance in difference.rules.tolerances)]


def measured_as(difference: Difference) -> str:
    """Return what the shares in a table are, as its title."""
    beside = ", and at tolerances" if difference.rules.tolerances else ""
    dtype = dtype_name(difference.rules.visible_dtype)
    return f"unchanged ({difference.rules.criterion}{beside}; {dtype})"


def total_rows(difference: Difference) -> list[tuple[str, str, str]]:
    """Return criterion, share of unchanged weights, and number of changed ones: by the criterion and each tolerance."""
    total = difference.total
    rows = [(difference.measured_as, share(total), f"{total.changed:,}")]
    dtype = dtype_name(difference.rules.visible_dtype)
    for tolerance, count in total.changed_at.items():
        rows.append((f"atol={tolerance!r}, {dtype}", share(total, tolerance), f"{count:,}"))
    return rows


def size_of_update(difference: Difference) -> str:
    """Return in a sentence how large the update is."""
    total = difference.total
    return f"Visible update: norm {math.sqrt(total.squared_norm):.4g}, largest |Δ| {total.max_abs:.4g}."


def module_rows(difference: Difference) -> list[list[str]]:
    """Return module, weights, sparsity, the same at each tolerance, largest |Δ|; those in the layers first."""
    found = difference.modules.items()
    return [
        _row([name], changes) for inside in (True, False) for (name, layered), changes in found if layered == inside
    ]


def layer_rows(difference: Difference) -> list[list[str]]:
    """Return stack, layer, and the rest as `module_rows`."""
    return [_row([stack, _padded(layer)], changes) for (stack, layer), changes in sorted(difference.layers.items())]


def group_rows(difference: Difference) -> list[list[str]]:
    """Return stack, layer, module, and the rest as `module_rows`."""
    return [_row([key.stack, _padded(key.layer), key.module], changes) for key, changes in difference.groups.items()]


def _padded(layer: int | None) -> str:
    return "-" if layer is None else f"{layer:02d}"


def _row(labels: list[str], changes: Changes) -> list[str]:
    weights = changes.weights or changes.frozen
    at = [share(changes, tolerance) if changes.weights else "" for tolerance in changes.changed_at]
    return [*labels, f"{weights:,}", share(changes), *at, f"{changes.max_abs:.2g}" if changes.weights else ""]


def remarks(difference: Difference) -> Iterator[str]:
    """Return a sentence for each thing that a reader of the numbers must know."""
    pairs, total = difference.pairs, difference.total
    yield from pairs.notes
    if total.frozen:
        yield f"{total.frozen:,} weights that the adapter leaves alone are in no share."
    if difference.shows_hidden:
        yield (
            f"{total.hidden:,} stored weights differ from the base and are the same once they are rounded to "
            f"{dtype_name(difference.rules.visible_dtype)} (hidden)."
        )
    if total.non_finite:
        yield f"NaN or infinite in the fine-tuned model: {total.non_finite:,}."
    yield from _listed("Only in the base", pairs.missing)
    yield from _listed("Only in the fine-tuned model", pairs.added)
    yield from _listed(
        "Of another shape, so not compared",
        [f"{name} {list(old)} → {list(new)}" for name, (old, new) in pairs.reshaped.items()],
    )
    yield from _listed("No parameters of the model, so not compared", pairs.left_out)
    if pairs.finetuned.skeleton is None:
        yield "transformers does not know the model: names are those on disk, and tied weights may count twice."


def _listed(what: str, names: Sequence[str]) -> Iterator[str]:
    if names:
        yield f"{what} ({len(names):,}): {name_some(list(names), 3)}."
