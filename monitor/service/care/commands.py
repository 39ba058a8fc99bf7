"""The commands `sparsity-monitor store …`. Each imports what it needs, so that no other command pays for it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from monitor.terminal import printable_lines

store_commands = typer.Typer(no_args_is_help=True)

_StoreUrl = Annotated[
    str,
    typer.Option(
        help="Where the service keeps observations: sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE",
        envvar="SPARSITY_MONITOR_STORE_URL",
        show_envvar=True,
    ),
]
_DEFAULT_URL = "sqlite:///sparsity-monitor.db"


@store_commands.callback()
def options() -> None:
    """Copy, look into and clear the store of a service."""


@store_commands.command()
def backup(
    to: Annotated[Path, typer.Argument(help="The file to write, or a directory: then the name tells the time.")],
    store_url: _StoreUrl = _DEFAULT_URL,
) -> None:
    """Copy the store into one file, also while a service serves it; the copy is checked before it gets its name.

    To go back: stop the service, put the copy in the place of the store, start the service.
    """
    from monitor.service.care.backup import back_up_to

    with _explained():
        done = back_up_to(store_url, to)
        held = f"{_number(done.runs, 'run')}, {_number(done.items, 'item')}, {done.bytes} bytes"
        print(f"{done.path}: {held}, read again and whole")


@contextmanager
def _explained() -> Iterator[None]:
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
