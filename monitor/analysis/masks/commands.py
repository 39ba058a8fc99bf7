"""The commands `sparsity-monitor mask …`. Each imports what it needs, so that no other command pays for it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from monitor.analysis.in_words import errors_in_words
from monitor.analysis.structural_commands import add_mask_make
from monitor.errors import ConfigurationError
from monitor.terminal import printable_lines

if TYPE_CHECKING:
    from monitor.analysis.masks.comparison import Comparison
    from monitor.analysis.masks.fitting import FittingMasks

mask_commands = typer.Typer(no_args_is_help=True, help="Compare, combine and convert the update masks of runs.")
add_mask_make(mask_commands)

_Masks = Annotated[list[Path], typer.Argument(help="Mask files, such as update_mask.safetensors.", metavar="MASK")]
_File = Annotated[Path, typer.Argument(help="Mask file, such as update_mask.safetensors.", metavar="FILE")]
_MaskOutput = Annotated[Path, typer.Option("--output", "-o", help="Mask file to write.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]


def add_mask(app: typer.Typer) -> None:
    """Add the commands `mask …` to the command line."""
    app.add_typer(mask_commands, name="mask")


@mask_commands.command(
    epilog="Example: sparsity-monitor mask overlap first.safetensors second.safetensors --random-control"
)
def overlap(
    masks: _Masks,
    *,
    random_control: Annotated[
        bool, typer.Option("--random-control", help="Compare with random masks, too, as dense in each matrix.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the random masks.", min=0)] = 0,
    base: Annotated[
        str | None, typer.Option(help="Base checkpoint, directory or hub id: says which way the updates went.")
    ] = None,
    finetuned: Annotated[
        list[str] | None, typer.Option(help="Checkpoint that a mask was taken from, once for each, in their order.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Report to write, with plots, such as report.html.")
    ] = None,
    as_json: _Json = False,
) -> None:
    """Tell how far update masks coincide, and what chance would give."""
    with errors_in_words():
        from monitor.analysis.masks.fitting import FittingMasks

        _check_overlap(masks, base, finetuned or [], output)
        with FittingMasks.open(masks) as fitting:
            _warn(fitting.warnings)
            comparison = _compare(fitting, seed if random_control else None, base, finetuned or [])
            if output is not None:
                from monitor.analysis.masks.report import write_report

                write_report(output, comparison)
            _show(comparison, as_json, output)


def _check_overlap(masks: list[Path], base: str | None, finetuned: list[str], output: Path | None) -> None:
    if len(masks) < 2:
        raise ConfigurationError(f"{len(masks)} mask is given; expected two or more to compare.")
    if (base is not None) != bool(finetuned) or (finetuned and len(finetuned) != len(masks)):
        raise ConfigurationError(
            f"{len(masks)} masks, {'a' if base else 'no'} --base and {len(finetuned)} --finetuned are given; expected "
            "--base BASE and --finetuned once for each mask, in their order, or neither."
        )
    if output is not None:
        from monitor.analysis.outputs import check_report

        check_report("--output", output)


def _show(comparison: Comparison, as_json: bool, output: Path | None) -> None:
    if as_json:
        import json

        from monitor.analysis.masks.as_json import comparison_as_json

        print(json.dumps(comparison_as_json(comparison), indent=2, allow_nan=False))
        return
    from rich.console import Console

    from monitor.analysis.masks.tables import print_comparison

    print_comparison(comparison, Console(markup=False, highlight=False))
    if output is not None:
        print(f"\nReport: {output}")


def _compare(masks: FittingMasks, seed: int | None, base: str | None, finetuned: list[str]) -> Comparison:
    from monitor.analysis.masks.comparison import Comparison
    from monitor.analysis.masks.counts import count_masks
    from monitor.analysis.progress import advancing

    total = sum(masks.weights.values())
    with advancing("Counting", total) as advance:
        counts = count_masks(masks, seed, advance)
    if base is None:
        return Comparison(masks, counts, seed, None)
    import torch

    from monitor.analysis.masks.updates import sum_updates
    from monitor.analysis.pairs import Pairs

    pairs = [Pairs.open(base, each) for each in finetuned]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with advancing("Reading the updates", total) as advance:
        sums = sum_updates(masks, pairs[0].base, [pair.finetuned for pair in pairs], device, advance)
    return Comparison(masks, counts, seed, sums)


@mask_commands.command(epilog="Example: sparsity-monitor mask info update_mask.safetensors")
def info(file: _File, *, as_json: _Json = False) -> None:
    """Tell where a mask comes from, and how dense it is in each layer and module."""
    with errors_in_words():
        from monitor.analysis.masks.fitting import FittingMasks

        with FittingMasks.open([file]) as mask:
            described = _compare(mask, None, None, [])
            if as_json:
                import json

                from monitor.analysis.masks.as_json import mask_as_json

                print(json.dumps(mask_as_json(described), indent=2, allow_nan=False))
                return
            from rich.console import Console

            from monitor.analysis.masks.tables import print_mask

            print_mask(described, Console(markup=False, highlight=False))


@mask_commands.command(
    epilog="Example: sparsity-monitor mask union first.safetensors second.safetensors -o union.safetensors"
)
def union(masks: _Masks, *, output: _MaskOutput, as_json: _Json = False) -> None:
    """Write the mask of the weights that are in any of some masks."""
    _combine("union", masks, 1, output, as_json=as_json)


@mask_commands.command(
    epilog="Example: sparsity-monitor mask intersection first.safetensors second.safetensors -o both.safetensors"
)
def intersection(masks: _Masks, *, output: _MaskOutput, as_json: _Json = False) -> None:
    """Write the mask of the weights that are in all of some masks."""
    _combine("intersection", masks, len(masks), output, as_json=as_json)


@mask_commands.command(
    epilog="Example: sparsity-monitor mask consensus *.safetensors --at-least 2 -o consensus.safetensors"
)
def consensus(
    masks: _Masks,
    *,
    at_least: Annotated[int, typer.Option("--at-least", help="In how many of the masks a weight must be.", min=1)],
    output: _MaskOutput,
    as_json: _Json = False,
) -> None:
    """Write the mask of the weights that are in at least so many of some masks."""
    _combine(f"in at least {at_least} of {len(masks)}", masks, at_least, output, as_json=as_json)


@mask_commands.command(
    epilog="Example: sparsity-monitor mask difference first.safetensors second.safetensors -o first-only.safetensors"
)
def difference(masks: _Masks, *, output: _MaskOutput, as_json: _Json = False) -> None:
    """Write the mask of the weights that are in the first mask and in no other."""
    _combine("difference", masks, None, output, as_json=as_json)


def _combine(made_by: str, paths: list[Path], at_least: int | None, output: Path, *, as_json: bool) -> None:
    with errors_in_words():
        from monitor.analysis.masks import combination
        from monitor.analysis.masks.fitting import FittingMasks
        from monitor.analysis.masks.wording import measured_as, share
        from monitor.analysis.progress import advancing

        _check_combination(paths, at_least, output)
        with FittingMasks.open(paths, all_cover_the_same=True) as masks:
            _warn(masks.warnings)
            how = combination.ONLY_FIRST if at_least is None else combination.at_least(at_least)
            with advancing("Combining", sum(masks.weights.values())) as advance:
                made = combination.write_combination(output, masks, how, made_by, advance)
            measured = measured_as(masks.shared_metadata)
        if as_json:
            import json

            from monitor.analysis.masks.as_json import combined_as_json

            print(json.dumps({"file": str(output), "made_by": made_by, **combined_as_json(made)}, indent=2))
            return
        print(
            f"{output}: {made_by}, {made.ones:,} of {made.weights:,} weights, density {share(made.density)} "
            f"({measured}). By chance, spread evenly within each matrix: {share(made.expected_density)}."
        )


def _check_combination(masks: list[Path], at_least: int | None, output: Path) -> None:
    if len(masks) < 2:
        raise ConfigurationError("one mask is given; expected two or more to combine.")
    if at_least is not None and at_least > len(masks):
        raise ConfigurationError(f"--at-least is {at_least}, and {len(masks)} masks are given: no weight can be in it.")
    from monitor.analysis.outputs import check_mask

    check_mask("--output", output)


@mask_commands.command(epilog="Example: sparsity-monitor mask convert update_mask.safetensors booleans.npz")
def convert(
    source: Annotated[Path, typer.Argument(help="A mask file, or booleans: .safetensors, .pt, .npz.")],
    target: Annotated[Path, typer.Argument(help="Booleans of a mask: .safetensors, .pt, .npz; a mask of booleans.")],
    *,
    criterion: Annotated[
        str, typer.Option(help='What counted as changed where the booleans were made, such as "bits" or "atol=1e-5".')
    ] = "",
    visible_dtype: Annotated[str, typer.Option(help='Dtype in which weights were compared, such as "bfloat16".')] = "",
    as_json: _Json = False,
) -> None:
    """Turn a mask file into a boolean for each weight, as other tools have it, or the other way round."""
    with errors_in_words():
        from monitor.analysis.masks import conversion
        from monitor.analysis.outputs import check_mask, check_new
        from monitor.observe.masks.file import is_mask

        if not os.path.isfile(source):
            raise ConfigurationError(f"{str(source)!r} is no file; expected a mask, or a boolean for each weight.")
        known = conversion.stated(criterion, visible_dtype)
        if not is_mask(source):
            check_mask("the target", target)
            said = conversion.to_mask(source, target, known)
        elif known:
            raise ConfigurationError(f"--criterion and --visible-dtype are for booleans; {str(source)!r} says its own.")
        else:
            check_new("the target", target)
            said = conversion.to_booleans(source, target)
        if as_json:
            import json

            said = json.dumps({"file": str(target), "bytes": target.stat().st_size, "said": said}, indent=2)
        print(said)


def _warn(warnings: Sequence[str]) -> None:
    for warning in warnings:
        print(printable_lines(f"Note: {warning}."), file=sys.stderr)
