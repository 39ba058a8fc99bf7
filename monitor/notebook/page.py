"""Runs as a page, for a paper or a pull request: what was measured, curves, layers, overlap, how they ended."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from monitor.analysis.html import Report
from monitor.analysis.printed import PrintedReport
from monitor.notebook.curves import CUMULATIVE, STEP, DrawnSparsity, draw
from monitor.notebook.run import LoadedRun
from monitor.percent import percent

_NOT_MEASURED = "not measured"
_COUNTS = ("trained", "changed", "step_changed", "touched", "transient", "hidden", "non_finite")
_GROUP_COUNTS = ("changed", "step_changed", "touched")
_SPARSITIES = ("cumulative_sparsity", "step_sparsity")
_MEANING = (
    "Changed: differs from the base. Step changed: differs from the previous observation. Touched: moved at some "
    "observation so far; transient: moved, and came back. Hidden: the stored weight differs from the base, the visible "
    "one does not."
)


def page_of(runs: Sequence[LoadedRun], kind: type[Report | PrintedReport]) -> Report | PrintedReport:
    """Return the report of one run or of several, whose curves lie over each other, as a page or for paper."""
    report = kind("Sparsity of weight updates: " + ", ".join(run.name or run.run_id for run in runs))
    for run in runs:
        for remark in run.described.remarks:
            report.paragraph(f"Missing from {_named(run, runs)}: {remark}")
    _measured(report, runs)
    observed = [run for run in runs if len(run.observations)]
    if observed:
        _curves(report, observed)
        _totals(report, observed)
        for run in observed:
            _layers(report, run, runs)
        _overlap(report, [run for run in observed if len(run.references)], runs)
    _endings(report, runs)
    return report


def _named(run: LoadedRun, runs: Sequence[LoadedRun]) -> str:
    """Name a run, with its id where another has the same name."""
    alike = [each for each in runs if each.name == run.name]
    return run.name if run.name and len(alike) == 1 else f"{run.name} {run.run_id}".strip()


def _measured(report: Report | PrintedReport, runs: Sequence[LoadedRun]) -> None:
    report.heading("What is measured")
    about = [run.described for run in runs]
    versions = dict.fromkeys(library for each in about for library in sorted(each.library_versions))
    labels = dict.fromkeys(label for each in about for label in each.labels)
    rows: list[list[object]] = [
        ["run id", *(each.run_id for each in about)],
        ["model", *(each.model for each in about)],
        ["base", *(each.base for each in about)],
        ["fingerprint of the base", *(each.base_fingerprint[:16] for each in about)],
        ["counts as changed", *(each.criterion for each in about)],
        ["visible dtype", *(each.visible_dtype for each in about)],
        ["stored dtypes", *(", ".join(each.stored_dtypes) for each in about)],
        ["weights", *(f"{each.weights:,}" for each in about)],
        *[_row(f"label {name}", (each.labels.get(name, "") for each in about)) for name in labels],
        *[_row(name, (each.library_versions.get(name, "") for each in about)) for name in versions],
    ]
    report.table(["", *(_named(run, runs) for run in runs)], rows)
    if len({each.measured_as for each in about}) > 1:
        report.paragraph(
            "These runs count changed weights differently: their sparsities are not comparable. Compare runs of one "
            "criterion and visible dtype."
        )
    if len({each.base_fingerprint for each in about}) > 1:
        report.paragraph("These runs began from different bases.")


def _row(name: str, cells: Iterable[object]) -> list[object]:
    return [name, *cells]


def _curves(report: Report | PrintedReport, runs: Sequence[LoadedRun]) -> None:
    report.heading("Over the steps")
    for drawn in (CUMULATIVE, STEP):
        with report.plot(_caption(drawn), height=3.4) as axes:
            draw(axes, drawn, runs)


def _caption(drawn: DrawnSparsity) -> str:
    return f"{drawn.title}: share of the trained weights that are {drawn.against}. {drawn.published}"


def _totals(report: Report | PrintedReport, runs: Sequence[LoadedRun]) -> None:
    report.heading("At the last observation")
    last = [run.observations.iloc[-1] for run in runs]
    rows: list[list[object]] = [
        ["step", *(_count(each["step"]) for each in last)],
        ["observations", *(f"{len(run.observations):,}" for run in runs)],
        ["steps since the observation before", *(_count(each["stride"]) for each in last)],
        ["cumulative sparsity", *(_share(each["cumulative_sparsity"]) for each in last)],
        ["step sparsity", *(_share(each["step_sparsity"]) for each in last)],
        *[_row(name.replace("_", " "), (_count(each[name]) for each in last)) for name in _COUNTS],
    ]
    measured = "; ".join(dict.fromkeys(run.described.measured_as for run in runs))
    report.table(["", *(_named(run, runs) for run in runs)], rows, f"Weights, over all groups ({measured}).")
    report.paragraph(_MEANING)


def _layers(report: Report | PrintedReport, run: LoadedRun, runs: Sequence[LoadedRun]) -> None:
    groups = run.last_groups
    step, measured = _count(groups["step"].iloc[0]), run.described.measured_as
    report.heading(f"Layers and modules of {_named(run, runs)}")
    layers, modules = list(dict.fromkeys(groups["layer"])), list(dict.fromkeys(groups["module"]))
    inside = [layer for layer in layers if layer != "-"]
    shares = {(row.layer, row.module): row.cumulative_sparsity for row in groups.itertuples()}
    shown = [module for module in modules if any((layer, module) in shares for layer in inside)]
    if inside:
        report.table(
            ["layer", *_short(shown)],
            [[layer, *(_cell(shares, layer, module) for module in shown)] for layer in inside],
            f"Cumulative sparsity at step {step} ({measured}); an empty cell is no group.",
        )
    report.table(
        ["layer", "module", *(name.replace("_", " ") for name in ("weights", *_GROUP_COUNTS, *_SPARSITIES))],
        [
            [
                row["layer"],
                row["module"],
                *(_count(row[name]) for name in ("weights", *_GROUP_COUNTS)),
                *(_share(row[name]) for name in _SPARSITIES),
            ]
            for row in groups.to_dict("records")
        ],
        f"Weights, and both sparsities, of each group at step {step} ({measured}).",
    )


def _short(modules: list[str]) -> list[str]:
    """Return the modules by the last part of their names, where that tells them apart."""
    last = [module.rpartition(".")[2] for module in modules]
    return last if len(set(last)) == len(last) else modules


def _cell(shares: dict[tuple[str, str], float], layer: str, module: str) -> str:
    return _share(shares[layer, module]) if (layer, module) in shares else ""


def _overlap(report: Report | PrintedReport, runs: Sequence[LoadedRun], among: Sequence[LoadedRun]) -> None:
    if not runs:
        return
    report.heading("Overlap with reference masks")
    rows: list[list[object]] = []
    for run in runs:
        references = run.references
        for row in references[references["step"] == references["step"].max()].to_dict("records"):
            shares = (_share(row["overlap_o1"]), _share(row["overlap_o2"]), _number(row["lift"]))
            rows.append(
                [
                    _named(run, among),
                    row["name"],
                    _count(row["step"]),
                    _count(row["weights"]),
                    _count(row["intersection"]),
                    *shares,
                ]
            )
    report.table(
        ["run", "reference R", "step", "|R|", "|M∩R|", "|M∩R| ÷ |M|", "|M∩R| ÷ |R|", "lift"],
        rows,
        "M: weights that differ from the base. Lift: |M∩R| ÷ what chance gives, stratified by matrix; 1 is chance.",
    )


def _endings(report: Report | PrintedReport, runs: Sequence[LoadedRun]) -> None:
    report.heading("How they ended" if len(runs) > 1 else "How it ended")
    report.table(
        ["run", "state", "why", "attempts"],
        [[_named(run, runs), run.described.state, run.described.reason, run.described.attempts] for run in runs],
    )


def _is_missing(value: Any) -> bool:
    # pandas' NA equals nothing, as NaN; NA cannot be asked whether it is true.
    return value is None or str(value) in ("<NA>", "nan")


def _count(value: Any) -> str:
    return _NOT_MEASURED if _is_missing(value) else f"{int(value):,}"


def _share(value: Any) -> str:
    return percent(None if _is_missing(value) else float(value))


def _number(value: Any) -> str:
    return _NOT_MEASURED if _is_missing(value) else f"{value:.3f}"
