"""The command `sparsity-monitor mask make`. It imports what it needs, so that no other command pays for it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from monitor.analysis.in_words import errors_in_words
from monitor.errors import ConfigurationError, shown

if TYPE_CHECKING:
    from monitor.observe.masks.structural import StructuralMask

_Mask = Annotated[
    str,
    typer.Argument(
        metavar="MASK",
        help="lowest:0.1, the tenth of each parameter with the smallest magnitudes, or random:0.1, a tenth anywhere.",
    ),
]
_Base = Annotated[str, typer.Argument(help="Base checkpoint: directory, hub id, or file of weights.", metavar="BASE")]
_Output = Annotated[Path, typer.Option("--output", "-o", help="Mask file to write.")]
_Dtype = Annotated[
    str, typer.Option(help="Magnitudes are those of the weights rounded to it: bfloat16, float16 or float32.")
]

_Json = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]


def add_mask_make(commands: typer.Typer) -> None:
    """Add the command `make` to the commands about masks."""

    @commands.command(epilog="Example: sparsity-monitor mask make lowest:0.1 Qwen/Qwen2.5-0.5B -o lowest.safetensors")
    def make(
        mask: _Mask, base: _Base, *, output: _Output, visible_dtype: _Dtype = "bfloat16", as_json: _Json = False
    ) -> None:
        """Write a structural mask of a base checkpoint: the one that a training makes with references={"…": MASK}."""
        with errors_in_words():
            print(_make(_parse(mask), base, output, visible_dtype, as_json=as_json))


def _parse(text: str) -> StructuralMask:
    from monitor.observe.masks.structural import StructuralMask

    mask = StructuralMask.parse(text)
    if mask is None:
        raise ConfigurationError(f"{shown(text)} is no structural mask; expected such as lowest:0.1 or random:0.1.")
    return mask


def _make(mask: StructuralMask, base: str, output: Path, visible_dtype: str, *, as_json: bool) -> str:
    from monitor.analysis.checkpoint import Checkpoint
    from monitor.analysis.outputs import check_mask
    from monitor.analysis.progress import advancing
    from monitor.analysis.structural import passes, write_structural
    from monitor.observe.criterion import parse_visible_dtype

    check_mask("--output", output)
    dtype = parse_visible_dtype(visible_dtype)
    checkpoint = Checkpoint.open(base)
    weights = sum(map(math.prod, checkpoint.shapes.values()))
    with advancing("Making the mask", passes(mask) * weights) as advance:
        ones = write_structural(output, mask, checkpoint, dtype, advance)
    if as_json:
        return json.dumps(
            {"file": str(output), "mask": str(mask), "base": base, "weights": weights, "ones": ones}, indent=2
        )
    of = f"of the {visible_dtype} weights of {base}" if passes(mask) > 1 else f"of the parameters of {base}"
    return f"{output}: {mask} {of}, {ones:,} of {weights:,} weights in {len(checkpoint.names):,} parameters."
