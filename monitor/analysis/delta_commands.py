"""The commands `sparsity-monitor delta …`. Each imports what it needs, so that no other command pays for it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from monitor.analysis.in_words import errors_in_words
from monitor.terminal import printable

if TYPE_CHECKING:
    from rich.console import Console

    from monitor.analysis.delta.manifest import Manifest

_Json = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]
_Base = Annotated[str, typer.Argument(metavar="BASE", help="Directory, file or hub id of the base.")]
_File = Annotated[Path, typer.Argument(metavar="FILE", help="The delta.")]


def add_delta(app: typer.Typer) -> None:
    """Add the commands to those that there are."""
    commands = typer.Typer(
        no_args_is_help=True,
        help="Ship a fine-tuned checkpoint as the difference to its base, bit for bit.",
    )
    commands.command(epilog="Example: sparsity-monitor delta make Qwen/Qwen2.5-0.5B outputs/grpo -o grpo.delta")(make)
    commands.command(epilog="Example: sparsity-monitor delta apply Qwen/Qwen2.5-0.5B grpo.delta -o grpo")(apply)
    commands.command(epilog="Example: sparsity-monitor delta info grpo.delta")(info)
    app.add_typer(commands, name="delta")


def make(
    base: _Base,
    finetuned: Annotated[str, typer.Argument(metavar="FINETUNED", help="The same of what was made of it.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The delta to write.")],
    json_wanted: _Json = False,
) -> None:
    """Write what differs between two checkpoints: changed positions, new values, and the small files beside them."""
    with errors_in_words():
        from monitor.analysis.delta.container import DeltaFile, check_replaceable
        from monitor.analysis.delta.figures import figures_of
        from monitor.analysis.delta.make import make_delta
        from monitor.analysis.delta.sides import Checkpoint
        from monitor.analysis.delta.tables import as_json, print_figures
        from monitor.analysis.progress import reading

        check_replaceable(output)
        sides = Checkpoint.open(base), Checkpoint.open(finetuned)
        began = time.monotonic()
        with reading("comparing", sides[1].files.bytes) as advance:
            manifest = make_delta(*sides, output, advance)
        seconds = time.monotonic() - began
        delta = DeltaFile(output)
        if json_wanted:
            _print_json({**as_json(delta), "seconds": seconds})
            return
        print_figures(manifest, figures_of(manifest, delta.size), _console())
        print(f"wrote {printable(str(output))} in {_pace(manifest, seconds)}")


def apply(
    base: _Base,
    file: _File,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIRECTORY", help="Directory to write; new, or empty.")
    ],
    json_wanted: _Json = False,
) -> None:
    """Write the fine-tuned checkpoint again, checked to the bit; on another base, write nothing and say so."""
    with errors_in_words():
        from monitor.analysis.delta.ahead import worker_threads
        from monitor.analysis.delta.apply import apply_delta, check_base, check_target
        from monitor.analysis.delta.container import DeltaFile
        from monitor.analysis.delta.sides import Checkpoint
        from monitor.analysis.progress import reading

        delta, checkpoint = DeltaFile(file), Checkpoint.open(base)
        check_target(delta, output)
        delta.check_frames()
        began = time.monotonic()
        with worker_threads() as pool:
            with reading("checking the base", checkpoint.files.bytes) as advance:
                check_base(checkpoint, delta, pool, advance)
            with reading("writing", delta.manifest.dense_size) as advance:
                apply_delta(checkpoint, delta, output, pool, advance)
        seconds = time.monotonic() - began
        if json_wanted:
            result = {"directory": str(output), "checksum": delta.manifest.finetuned.checksum}
            _print_json({**result, "files": delta.manifest.written, "seconds": seconds})
            return
        count, pace = len(delta.manifest.written), _pace(delta.manifest, seconds)
        print(f"wrote {count} files to {printable(str(output))} in {pace}")
        print(f"every tensor and file has its checksum; all weights: {delta.manifest.finetuned.checksum[:16]}")


def info(file: _File, json_wanted: _Json = False) -> None:
    """Show what a delta is for, what it costs, and which files it brings; no weights are read."""
    with errors_in_words():
        from monitor.analysis.delta.container import DeltaFile
        from monitor.analysis.delta.tables import as_json, print_delta

        delta = DeltaFile(file)
        if json_wanted:
            _print_json(as_json(delta))
        else:
            print_delta(delta, _console())


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False)


def _pace(manifest: Manifest, seconds: float) -> str:
    from rich.filesize import decimal

    return f"{seconds:.1f} s, {decimal(int(manifest.dense_size / max(seconds, 1e-3)))} of weights per second"


def _print_json(value: dict[str, object]) -> None:
    print(json.dumps(value, indent=2))
