"""The help of every command: an example that the command takes as it stands."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from monitor.cli import app_of
from monitor.commands.ending import Ending
from tests.commands.running import command

_ROOT: Any = typer.main.get_command(app_of(Ending()))


def _commands(command: Any, *words: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    if not hasattr(command, "commands"):
        yield words, command
    for name, each in getattr(command, "commands", {}).items():
        yield from _commands(each, *words, name)


@pytest.mark.parametrize(("words", "command"), [pytest.param(*each, id=" ".join(each[0])) for each in _commands(_ROOT)])
def test_every_command_has_an_example_that_it_takes(words: tuple[str, ...], command: Any) -> None:
    first, *example = shlex.split(command.epilog.removeprefix("Example: "))
    assert (first, *example[: len(words)]) == ("sparsity-monitor", *words)
    with command.make_context(first, example[len(words) :]) as context:
        assert all(context.params[each.name] for each in command.params if each.required)


def test_the_example_is_shown_in_eighty_columns() -> None:
    shown = command("runs", "watch", "--help").stdout
    assert "Example: sparsity-monitor runs watch grpo-1" in shown
    assert max(map(len, shown.splitlines())) <= 80
