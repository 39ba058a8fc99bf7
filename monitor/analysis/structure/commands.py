"""The command `sparsity-monitor structure`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from monitor.analysis.in_words import errors_in_words
from monitor.analysis.structure import defaults

if TYPE_CHECKING:
    from monitor.analysis.structure.measured import Structure
    from monitor.analysis.structure.settings import StructureSettings
    from monitor.analysis.structure.source import Source


def add_structure(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog="Example: sparsity-monitor structure Qwen/Qwen2.5-0.5B outputs/grpo -o structure.html")(
        structure
    )


def structure(
    base: Annotated[str, typer.Argument(help="Directory, file or hub id that the training started from.")],
    finetuned: Annotated[str, typer.Argument(help="The same of what came out of it.")],
    *,
    only: Annotated[
        list[str] | None,
        typer.Option(help='Measure only parameters whose names fit, such as "*.layers.7.*"; several times for more.'),
    ] = None,
    max_size: Annotated[int | None, typer.Option(help="Skip parameters of more weights.", min=0)] = None,
    criterion: Annotated[str, typer.Option(help='What counts as changed: "bits", or "atol=1e-5".')] = "bits",
    visible_dtype: Annotated[
        str, typer.Option(help="Round weights to this before they are compared: bfloat16, float16 or float32.")
    ] = "bfloat16",
    share: Annotated[
        float, typer.Option(help="Share of a matrix that counts as its smallest, largest and principal weights.")
    ] = defaults.ALPHA,
    principal_rank: Annotated[
        float, typer.Option(help="Rank at which principal weights are the largest, as a share of the full one.")
    ] = defaults.PRINCIPAL_RANK,
    whole_up_to: Annotated[
        int,
        typer.Option(
            help="Compute the rank, and all singular values, of matrices with no more rows or columns.", min=1
        ),
    ] = defaults.WHOLE_UP_TO,
    matrices: Annotated[bool, typer.Option("--matrices", help="Show every matrix instead of every module.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON with every matrix to standard output.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write an HTML report to this file, too.")
    ] = None,
    profiles: Annotated[
        Path | None,
        typer.Option(help="Write how many weights of each row and column changed to this safetensors file."),
    ] = None,
) -> None:
    """Find the structure of an update: rank, energy, stripes, and where in the base it landed.

    Beside each number stands what was published of it.

    All singular values of a model of 7 billion weights take hours on a CPU.
    --only and --max-size sample, --whole-up-to 1024 does without ranks.
    A GPU is used where there is one.
    """
    with errors_in_words():
        _check_outputs(output, profiles)
        settings = _settings(
            criterion,
            visible_dtype,
            share=share,
            principal_rank=principal_rank,
            whole_up_to=whole_up_to,
            only=tuple(only or ()),
            max_size=max_size,
        )
        found, source = _measure(base, finetuned, settings)
        _print(found, source, as_json=as_json, every_matrix=matrices)
        if output is not None:
            from monitor.analysis.structure.report import report_of

            report_of(found, source).write(output)
        if profiles is not None:
            from monitor.analysis.structure.profiles_file import write_profiles

            write_profiles(found, source, profiles)


def _check_outputs(report: Path | None, profiles: Path | None) -> None:
    # Before the work, which may take hours.
    from monitor.analysis.outputs import check_of_format, check_report
    from monitor.analysis.structure.profiles_file import FORMAT

    if report is not None:
        check_report("--output", report)
    if profiles is not None:
        check_of_format("--profiles", profiles, FORMAT)


def _settings(criterion: str, visible_dtype: str, **others: Any) -> StructureSettings:
    from monitor.analysis.structure.settings import StructureSettings
    from monitor.observe.criterion import Criterion, parse_visible_dtype

    return StructureSettings(
        visible_dtype=parse_visible_dtype(visible_dtype), criterion=Criterion.parse(criterion), **others
    )


def _measure(base: str, finetuned: str, settings: StructureSettings) -> tuple[Structure, Source]:
    from monitor.analysis.pairs import Pairs
    from monitor.analysis.progress import naming
    from monitor.analysis.structure.analyse import Plan, default_device, structure_between
    from monitor.analysis.structure.source import Source

    pairs = Pairs.open(base, finetuned)
    plan, device = Plan.of(pairs, settings), default_device()
    with naming(sum(plan.costs.values())) as advance:
        found = structure_between(pairs, settings, plan, device, advance)
    return found, Source.of(pairs, device.type)


def _print(found: Structure, source: Source, *, as_json: bool, every_matrix: bool) -> None:
    from rich.console import Console

    from monitor.analysis.structure.as_json import structure_as_json
    from monitor.analysis.structure.shown import show

    if as_json:
        json.dump({**source.as_json(), **structure_as_json(found)}, sys.stdout, indent=1, ensure_ascii=False)
        print()
    else:
        show(found, source, Console(highlight=False), every_matrix=every_matrix)
