"""A difference as a page: totals, plots over the layers, every group."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monitor.analysis.diff import shown
from monitor.analysis.diff.difference import Difference
from monitor.analysis.html import COLORS, Report
from monitor.observe.criterion import dtype_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LINES = ("-", "--", ":")


def page_of(difference: Difference) -> Report:
    """Return the report."""
    pairs, total = difference.pairs, difference.total
    report = Report("How two checkpoints differ")
    report.table(
        ["", "checkpoint", "stored as"],
        [
            [label, each.source, ", ".join(sorted({dtype_name(dtype) for dtype in each.dtypes.values()}))]
            for label, each in (("base", pairs.base), ("fine-tuned", pairs.finetuned))
        ],
    )
    report.paragraph(
        f"{total.weights:,} weights of {len(pairs):,} parameters were compared, as they are once they are rounded: "
        f"{difference.measured_as}."
    )
    report.heading("In all")
    report.table(["counts as changed", "unchanged", "changed"], shown.total_rows(difference), f"{shown.CUMULATIVE}.")
    report.paragraph(shown.size_of_update(difference))
    for remark in shown.remarks(difference):
        report.paragraph(remark)
    columns = ["weights", *shown.criteria(difference), "max |Δ|"]
    as_measured = shown.measured_as(difference)
    report.heading("By module")
    report.table(["module", *columns], shown.module_rows(difference), f"Share of weights {as_measured}.")
    if difference.layers:
        report.heading("By layer")
        with report.plot(f"Share of weights {as_measured}, of each module over the layers.", height=4.0) as axes:
            _draw_modules(axes, difference)
        report.table(["stack", "layer", *columns], shown.layer_rows(difference), f"Share of weights {as_measured}.")
    report.heading("By layer and module")
    if len(difference.layers) > 1:
        with report.plot(
            f"Share of weights {as_measured}, as a map.", height=1.5 + 0.25 * len(_series(difference))
        ) as axes:
            _draw_map(axes, difference)
    report.table(
        ["stack", "layer", "module", *columns], shown.group_rows(difference), f"Share of weights {as_measured}."
    )
    return report


def _series(difference: Difference) -> dict[str, dict[int, float]]:
    """Return module → layer → percent of unchanged weights. A module of another stack has another name."""
    found: dict[str, dict[int, float]] = {}
    for key, changes in difference.groups.items():
        if key.layer is not None and changes.weights:
            found.setdefault(key.module, {})[key.layer] = 100 * changes.unchanged_at(None)
    return found


def _draw_modules(axes: Axes, difference: Difference) -> None:
    from matplotlib.ticker import MaxNLocator

    for i, (module, values) in enumerate(_series(difference).items()):
        color, line = COLORS[i % len(COLORS)], _LINES[i // len(COLORS) % len(_LINES)]
        axes.plot(list(values), list(values.values()), marker=".", label=module, color=color, linestyle=line)
    axes.set_xlabel("layer")
    axes.set_ylabel("unchanged, %")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize="small")


def _draw_map(axes: Axes, difference: Difference) -> None:
    series = _series(difference)
    layers = sorted({layer for values in series.values() for layer in values})
    cells = [[values.get(layer, float("nan")) for layer in layers] for values in series.values()]
    mesh = axes.pcolormesh(cells, cmap="cividis", vmax=100)
    axes.set_yticks([i + 0.5 for i in range(len(series))], list(series))
    every = max(1, len(layers) // 16)
    axes.set_xticks([i + 0.5 for i in range(0, len(layers), every)], [str(layer) for layer in layers[::every]])
    axes.set_xlabel("layer")
    axes.invert_yaxis()
    axes.figure.colorbar(mesh, ax=axes, label="unchanged, %")
