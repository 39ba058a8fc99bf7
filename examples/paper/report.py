"""Writes REPORT.md: what was run and where, the claims at a glance, and each with its table and plot."""

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import torch
import transformers
import trl

from monitor import __version__
from paper.claims import CLAIMS
from paper.claims.claim import Claim, Runs
from paper.experiments import Experiment, Scale
from paper.place import Place
from paper.results import read_result

REPORT_FILE = "REPORT.md"
PLOT_FOLDER = "plots"


@dataclass(frozen=True)
class Made:
    """What a report is of.

    Attributes:
        failures: name of an experiment → why it has no result.
        is_short: whether it is the form whose numbers say nothing.
    """

    experiments: Sequence[Experiment]
    scale: Scale
    place: Place
    right_before: float
    failures: Mapping[str, str]
    is_short: bool


def write_report(made: Made, directory: Path) -> Path:
    """Write the report and its plots, and return where it is."""
    plots = directory / PLOT_FOLDER
    plots.mkdir(parents=True, exist_ok=True)
    runs = _runs(made)
    claims = [claim(runs) for claim in CLAIMS]
    if made.is_short:
        claims = [replace(claim, verdict="cannot be said: the short form") for claim in claims]
    parts = [_head(made, runs), _at_a_glance(claims)]
    for number, claim in enumerate(claims, start=1):
        parts.append(_section(number, claim, plots))
    path = directory / REPORT_FILE
    partial = path.with_name(f".{REPORT_FILE}.partial")
    partial.write_text("\n".join(parts))
    partial.replace(path)
    return path


def _runs(made: Made) -> Runs:
    found = {each.name: read_result(made.place.directory(each.name)) for each in made.experiments}
    results = {name: result for name, result in found.items() if result is not None}
    return Runs(results, made.place.base, made.right_before)


def _head(made: Made, runs: Runs) -> str:
    minutes = sum(result.seconds for result in runs.results.values()) / 60
    of_a_core = sum(result.processor_seconds for result in runs.results.values()) / 60
    seeds = sorted({each.seed for each in made.experiments})
    lines = [
        "# The claims about sparse updates, tried on a small model",
        "",
        "Written by `bash examples/paper/reproduce.sh`, which anybody can run. All counts of changed weights are the "
        "monitor's own, taken while the runs trained; `examples/paper/experiments.py` lists them.",
        "",
    ]
    if made.is_short:
        lines += ["**This is the short form: the trainings are so short that no number below says anything.**", ""]
    lines += _table(
        ("", ""),
        [
            ("date", datetime.now(UTC).strftime("%Y-%m-%d")),
            ("machine", f"{_processor()}, {os.cpu_count()} cores, one thread for each training"),
            (
                "versions",
                f"sparsity-monitor {__version__}, torch {torch.__version__}, transformers {transformers.__version__}, "
                f"TRL {trl.__version__}, Python {platform.python_version()}",
            ),
            ("seeds", ", ".join(map(str, seeds))),
            ("model", f"Qwen2 of {_weights(runs):,} weights, pre-trained in {made.scale.pretraining_steps} steps"),
            (
                "task",
                "sums such as 12+7=, of which the pre-training left half unanswered; the reward is 1 for the right "
                f"sum. The base model gives it in {100 * made.right_before:.1f} % of its answers",
            ),
            ("data", "`low` and `high`: exercises whose first number is below 25, or not"),
            ("each training", f"{made.scale.steps} steps of {made.scale.batch} rows, constant learning rate"),
            ("trainings", f"{len(runs.results)} of {len(made.experiments)} have finished"),
            ("time", f"{minutes:.0f} minutes as the sum over trainings, which had {of_a_core:.0f} minutes of a core"),
        ],
    )
    if made.failures:
        lines += ["", "These have no result:", ""]
        lines += [f"- {name}: {why}" for name, why in made.failures.items()]
    return "\n".join([*lines, ""])


def _at_a_glance(claims: Sequence[Claim]) -> str:
    rows = [(f"{number}. {claim.title}", claim.verdict) for number, claim in enumerate(claims, start=1)]
    return "\n".join(["## At a glance", "", *_table(("claim", "this model"), rows), ""])


def _section(number: int, claim: Claim, plots: Path) -> str:
    lines = [
        f"## {number}. {claim.title}",
        "",
        f"**Published:** {claim.published}",
        "",
        f"**Shown if** {claim.criterion}",
        "",
        f"**Here: {claim.verdict}.** {_found(claim)}".rstrip(),
        "",
        *(_table(claim.header, claim.rows) if claim.rows else ["Nothing of this table has finished."]),
    ]
    if claim.plot is not None and claim.rows:
        name, draw = claim.plot
        draw(plots / f"{name}.svg")
        lines += ["", f"![{claim.title}]({PLOT_FOLDER}/{name}.svg)"]
    if claim.why:
        lines += ["", claim.why]
    return "\n".join([*lines, ""])


def _found(claim: Claim) -> str:
    is_partial = claim.verdict.startswith("cannot be said") and claim.finding
    return f"Of what has finished: {claim.finding}" if is_partial else claim.finding


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    _, *others = zip(*rows, strict=True)
    columns = ["---", *("---:" if all(map(_is_number, column)) else "---" for column in others)]
    return [f"| {' | '.join(cells)} |" for cells in (header, columns, *rows)]


def _is_number(cell: str) -> bool:
    return cell[0] in "0123456789+-—"


def _weights(runs: Runs) -> int:
    return next((result.trained for result in runs.results.values()), 0)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()
