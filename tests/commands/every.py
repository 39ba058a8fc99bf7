"""Every command there is, also those that somebody adds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from monitor.cli import app_of
from monitor.commands.ending import Ending


def every_command() -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the words of each command with the command."""
    return _below(typer.main.get_command(app_of(Ending())))


def _below(command: Any, *words: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    if not hasattr(command, "commands"):
        yield words, command
    for name, each in getattr(command, "commands", {}).items():
        yield from _below(each, *words, name)
