"""The commands `sparsity-monitor store …`. Each imports what it needs, so that no other command pays for it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from monitor.service.times import when
from monitor.terminal import printable, printable_lines

if TYPE_CHECKING:
    from monitor.service.care.facts import RunFacts

store_commands = typer.Typer(no_args_is_help=True)

StoreUrl = Annotated[
    str,
    typer.Option(
        help="Where the service keeps observations: sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE",
        envvar="SPARSITY_MONITOR_STORE_URL",
        show_envvar=True,
    ),
]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show what would go.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
DEFAULT_URL = "sqlite:///sparsity-monitor.db"


@store_commands.callback()
def options() -> None:
    """Copy, look into and clear the store of a service."""


@store_commands.command(epilog="Example: sparsity-monitor store backup backups/")
def backup(
    to: Annotated[Path, typer.Argument(help="The file to write, or a directory: then the name tells the time.")],
    store_url: StoreUrl = DEFAULT_URL,
    *,
    as_json: Json = False,
) -> None:
    """Copy the store into one file, also while a service serves it; the copy is checked before it gets its name.

    To go back: stop the service, put the copy in the place of the store, start the service.
    """
    from monitor.service.care.backup import back_up_to

    with explained():
        done = back_up_to(store_url, to)
        if as_json:
            print_json({"path": str(done.path), "runs": done.runs, "items": done.items, "bytes": done.bytes})
            return
        held = f"{_number(done.runs, 'run')}, {_number(done.items, 'item')}, {done.bytes} bytes"
        print(f"{done.path}: {held}, read again and whole")


@store_commands.command(epilog="Example: sparsity-monitor store info --store-url sqlite:///sparsity-monitor.db")
def info(store_url: StoreUrl = DEFAULT_URL, *, as_json: Json = False) -> None:
    """Show what the store holds, the longest silent run first; also while a service serves it."""
    from monitor.service.care.facts import read

    with explained():
        found = read(checked(store_url))
        if as_json:
            print_json(asdict(found))
            return
        _print_runs(found.runs)
        if not sys.stdout.isatty():
            return
        items, size = sum(run.items for run in found.runs), sum(run.bytes for run in found.runs)
        print(f"{_number(len(found.runs), 'run')}, {_number(items, 'item')} of {_size(size)}")
        if found.deleted:
            print(f"of {_number(found.deleted, 'deleted attempt')} it is remembered how far they had reported")
        if found.used_bytes is not None and found.file_bytes is not None:
            free = _size(found.file_bytes - found.used_bytes)
            print(f"the file has {_size(found.file_bytes)}; {free} of it are free, and used before it grows")
            if found.file_bytes - found.used_bytes > found.file_bytes // 2:
                print("`sparsity-monitor store compact` gives back what is free, while no service serves it")


@store_commands.command(epilog="Example: sparsity-monitor store delete grpo-1 --dry-run")
def delete(
    runs: Annotated[list[str], typer.Argument(help="Ids of runs that have ended.")],
    store_url: StoreUrl = DEFAULT_URL,
    dry_run: _DryRun = False,
    *,
    as_json: Json = False,
) -> None:
    """Delete runs from a store that no service is serving. A service deletes by itself: serve --retain-days."""
    from monitor.service.care.by_hand import chosen, delete_runs

    with explained():
        going = chosen(checked(store_url), runs)
        if not dry_run:
            delete_runs(store_url, [run.run_id for run in going])
        if as_json:
            print_json({"dry_run": dry_run, "runs": [asdict(run) for run in going]})
            return
        _print_runs(going)
        print(f"{'would delete' if dry_run else 'deleted'} {_number(len(going), 'run')}", file=sys.stderr)


@store_commands.command(epilog="Example: sparsity-monitor store thin grpo-1 --keep 500")
def thin(
    runs: Annotated[list[str], typer.Argument(help="Ids of runs that have ended.")],
    keep: Annotated[
        int, typer.Option(min=3, help="Observations that stay: the first, the last and every k-th between.")
    ] = 1000,
    store_url: StoreUrl = DEFAULT_URL,
    dry_run: _DryRun = False,
    *,
    as_json: Json = False,
) -> None:
    """Thin runs of a store that no service is serving. A service does so by itself: serve --thin-after-days."""
    from monitor.service.care.by_hand import chosen, thin_runs

    with explained():
        going = chosen(checked(store_url), runs)
        names = [run.run_id for run in going]
        left = [min(keep, run.observations) for run in going] if dry_run else thin_runs(store_url, names, keep)
        if as_json:
            kept = [asdict(run) | {"kept": count} for run, count in zip(going, left, strict=True)]
            print_json({"dry_run": dry_run, "runs": kept})
            return
        for run, count in zip(going, left, strict=True):
            about = "would keep at most" if dry_run else "keeps"
            print(f"{printable(run.run_id)} {about} {count} of {_number(run.observations, 'observation')}")


@store_commands.command(epilog="Example: sparsity-monitor store compact --store-url sqlite:///sparsity-monitor.db")
def compact(store_url: StoreUrl = DEFAULT_URL, *, as_json: Json = False) -> None:
    """Give back what is free in the file of a store that no service is serving.

    A new store does so by itself when runs go; one that an earlier version made does from then on.
    """
    from monitor.service.care.by_hand import compact as compact_store

    with explained():
        before, after = compact_store(checked(store_url))
        if as_json:
            print_json({"bytes_before": before, "bytes": after})
            return
        print(f"the file had {_size(before)} and has {_size(after)}")


def checked(store_url: str) -> str:
    """Return the URL of a store, if it is one; what is wrong with it is said by `explained`."""
    from monitor.service.settings import ServiceSettings

    return ServiceSettings(store_url=store_url).store_url


def print_json(facts: object) -> None:
    """Print what a program can read."""
    print(json.dumps(facts, indent=2))


def _print_runs(runs: Sequence[RunFacts]) -> None:
    rows = [
        (
            *(
                run.run_id,
                str(run.observations),
                str(run.items),
                str(run.bytes),
                when(run.heard_at).removesuffix(" UTC"),
            ),
            str(run.thinned.every if run.thinned else 1),
        )
        for run in runs
    ]
    if not sys.stdout.isatty():
        for row in (("run", "observations", "items", "bytes", "last heard of", "one left in"), *rows):
            print("\t".join(map(printable, row)))
        return
    for run, row in zip(runs, rows, strict=True):
        print(printable(run.run_id))
        thinned = f" (at least 1 in {run.thinned.every} of what there was)" if run.thinned else ""
        print(f"  {_number(run.observations, 'observation')}{thinned}, {_size(run.bytes)}")
        print(f"  last heard of at {row[4]} UTC")


@contextmanager
def explained() -> Iterator[None]:
    """End the command with what went wrong, in words."""
    from pydantic import ValidationError

    from monitor.service.errors import ServiceError

    try:
        yield
    except ServiceError as error:
        sys.exit(printable_lines(str(error)))
    except ValidationError as error:
        sys.exit("\n".join(printable_lines(f"--store-url: {each['ctx']['error']}") for each in error.errors()))


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _size(count: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} bytes"
