"""The command `sparsity-monitor diff`. It imports what it needs, so that no other command pays for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from monitor.analysis.in_words import errors_in_words
from monitor.errors import ConfigurationError, shown
from monitor.terminal import printable

if TYPE_CHECKING:
    from monitor.analysis.diff.difference import Difference
    from monitor.observe.kernels.contract import Rules

# At which arXiv 2505.11711 counts.
_TOLERANCES = "1e-8,1e-5,1e-4"

_Checkpoint = typer.Argument(help="Directory, hub id (with @revision if wanted), or file of weights.")


def add_diff(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(epilog="Example: sparsity-monitor diff Qwen/Qwen2.5-0.5B outputs/grpo -o diff.html")
    def diff(
        base: Annotated[str, _Checkpoint],
        finetuned: Annotated[str, _Checkpoint],
        *,
        criterion: Annotated[str, typer.Option(help='What counts as changed: "bits" or "atol=1e-5".')] = "bits",
        visible_dtype: Annotated[
            str, typer.Option(help="Weights are rounded to it first: bfloat16, float16 or float32.")
        ] = "bfloat16",
        tolerances: Annotated[
            str, typer.Option(help="Absolute tolerances; changed weights are also counted at each.")
        ] = _TOLERANCES,
        mask: Annotated[
            Path | None, typer.Option(help="Write the update mask: a reference for the callback, as from a run.")
        ] = None,
        output: Annotated[Path | None, typer.Option("--output", "-o", help="Write a report as an HTML page.")] = None,
        as_json: Annotated[bool, typer.Option("--json", help="Print all counts as JSON.")] = False,
        full: Annotated[bool, typer.Option("--full", help="Print every module of every layer.")] = False,
    ) -> None:
        """Compare a fine-tuned checkpoint with its base: how much of it equals the base, per layer and module.

        Under torchrun the work is split among the processes.
        """
        outputs = {"--mask": mask, "--output": output}
        with errors_in_words():
            rules = _rules(criterion, visible_dtype, tolerances)
            _compare(base, finetuned, rules, outputs, as_json=as_json, full=full)


def _rules(criterion: str, visible_dtype: str, tolerances: str) -> Rules:
    from monitor.observe.criterion import Criterion, check_tolerances, parse_visible_dtype
    from monitor.observe.kernels.contract import Rules

    try:
        numbers = [float(each) for each in tolerances.split(",") if each.strip()]
    except ValueError:
        raise ConfigurationError(
            f"--tolerances is {shown(tolerances)}; expected numbers with commas between them, such as 1e-8,1e-5."
        ) from None
    return Rules(parse_visible_dtype(visible_dtype), Criterion.parse(criterion), check_tolerances(numbers))


def _compare(
    base: str, finetuned: str, rules: Rules, outputs: dict[str, Path | None], *, as_json: bool, full: bool
) -> None:
    from monitor.analysis.diff.run import difference, processes
    from monitor.analysis.pairs import Pairs
    from monitor.analysis.progress import reading

    _check(outputs)
    with processes() as ranks:
        pairs = ranks.all_or_none(lambda: Pairs.open(base, finetuned))
        with reading("comparing", pairs.bytes // ranks.world, wanted=ranks.rank == 0) as progress:
            found = difference(pairs, rules, ranks, mask=outputs["--mask"], progress=progress)
        if ranks.rank == 0:
            _show(found, outputs, as_json=as_json, full=full)


def _check(outputs: dict[str, Path | None]) -> None:
    from monitor.analysis.outputs import check_mask, check_report

    if (mask := outputs["--mask"]) is not None:
        check_mask("--mask", mask)
    if (report := outputs["--output"]) is not None:
        check_report("--output", report)


def _show(found: Difference, outputs: dict[str, Path | None], *, as_json: bool, full: bool) -> None:
    from rich.console import Console

    from monitor.analysis.diff.page import page_of
    from monitor.analysis.diff.terminal import print_difference

    if (output := outputs["--output"]) is not None:
        page_of(found).write(output)
    if as_json:
        print(json.dumps(found.as_json(), indent=2))
        return
    print_difference(found, Console(highlight=False), full=full)
    for path in outputs.values():
        if path is not None:
            print(printable(f"written: {path}"))
