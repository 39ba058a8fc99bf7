"""What is shown of a delta: tables for people, JSON for machines."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from monitor.analysis.delta.container import FORMAT_VERSION, DeltaFile
from monitor.analysis.delta.figures import Figures, figures_of
from monitor.analysis.delta.manifest import Manifest
from monitor.percent import percent
from monitor.terminal import printable

_NAMES_SHOWN = 12
_KINDS = {"same": "unchanged", "gaps": "distances", "bitmap": "bitmap", "all": "all steps", "plain": "plain values"}


def print_delta(delta: DeltaFile, console: Console) -> None:
    """Print what a delta is, what it costs, and which files it brings."""
    manifest, figures = delta.manifest, figures_of(delta.manifest, delta.size)
    _print_pairs(
        console,
        {
            "base": f"{manifest.base.source}  {manifest.base.checksum[:16]}",
            "fine-tuned": f"{manifest.finetuned.source}  {manifest.finetuned.checksum[:16]}",
            "format": f"{FORMAT_VERSION}, written by {delta.written_by}",
        },
    )
    print_figures(manifest, figures, console)
    console.print(_files(manifest))


def print_figures(manifest: Manifest, figures: Figures, console: Console) -> None:
    """Print the sizes beside each other, and what there is to know about them."""
    console.print(_sizes(figures))
    dtypes = ", ".join(figures.dtypes)
    blocks = ", ".join(f"{count:,} as {_KINDS[kind]}" for kind, count in figures.blocks.items())
    tensors = [f"{figures.tensors:,}"]
    told = {"unchanged": figures.unchanged, "same as another": figures.copied}
    tensors += [f"{count:,} {what}" for what, count in told.items() if count]
    anew = [f"{shard.path} (was {shard.was})" for shard in manifest.shards if not shard.kept]
    pairs = {
        "changed": f"{figures.changed:,} of {figures.weights:,} values, {percent(figures.density)} by stored bits "
        f"({dtypes}; −0 is not 0)",
        "tensors": ", ".join(tensors),
        "blocks": blocks or "none",
        "only in the base": _some(manifest.removed),
        "only fine-tuned": _some(manifest.added),
        "of another dtype": _some(manifest.retyped),
        "of another shape": _some(manifest.reshaped),
        "written anew": _some(anew),
        "not carried": _some(manifest.left_out),
    }
    _print_pairs(console, {name: value for name, value in pairs.items() if value})


def as_json(delta: DeltaFile) -> dict[str, object]:
    """Return all that is known of a delta without reading its frames."""
    manifest = delta.manifest
    return {
        "file": str(delta.path),
        "format_version": FORMAT_VERSION,
        "written_by": delta.written_by,
        "base": manifest.base.model_dump(),
        "finetuned": manifest.finetuned.model_dump(),
        "figures": figures_of(manifest, delta.size).as_json(),
        "shards": [each.model_dump(include={"path", "was", "kept", "size", "sha256"}) for each in manifest.shards],
        "files": [{"path": each.path, "size": each.frame.size, "sha256": each.sha256} for each in manifest.files],
        **manifest.model_dump(include={"left_out", "removed", "added", "retyped", "reshaped"}),
    }


def _sizes(figures: Figures) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    table.add_column("size", justify="right")
    table.add_column("of dense", justify="right")
    dense = figures.dense_bytes
    rows = {
        "dense: all weights": dense,
        f"delta: 1/{figures.ratio:,.1f}": figures.delta_bytes,
        "  of it headers and other files": figures.files_bytes,
        "uncompressed: Σ min((4+w)k, N/8+wk, wN)": figures.least_bytes,
    }
    for name, size in rows.items():
        table.add_row(name, decimal(size), f"{size / dense * 100:.3g} %" if dense else "")
    return table


def _files(manifest: Manifest) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("file")
    table.add_column("size", justify="right")
    table.add_column("SHA-256", no_wrap=True)
    for shard in manifest.shards:
        table.add_row(Text(printable(shard.path), overflow="fold"), decimal(shard.size), shard.sha256[:16])
    for file in manifest.files:
        table.add_row(Text(printable(file.path), overflow="fold"), decimal(file.frame.size), file.sha256[:16])
    return table


def _print_pairs(console: Console, pairs: dict[str, str]) -> None:
    table = Table.grid(padding=(0, 2))
    for name, value in pairs.items():
        table.add_row(name, Text(printable(value), overflow="fold"))
    console.print(table)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(names[:_NAMES_SHOWN]) + more
