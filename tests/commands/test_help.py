"""The help of every command: an example that the command takes as it stands."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from tests.commands.every import every_command
from tests.commands.running import command


@pytest.mark.parametrize(("words", "command"), [pytest.param(*each, id=" ".join(each[0])) for each in every_command()])
def test_every_command_has_an_example_that_it_takes(words: tuple[str, ...], command: Any) -> None:
    first, *example = shlex.split(command.epilog.removeprefix("Example: "))
    assert (first, *example[: len(words)]) == ("sparsity-monitor", *words)
    with command.make_context(first, example[len(words) :]) as context:
        assert all(context.params[each.name] for each in command.params if each.required)


def test_the_example_is_shown_in_eighty_columns() -> None:
    shown = command("runs", "watch", "--help").stdout
    assert "Example: sparsity-monitor runs watch grpo-1" in shown
    assert max(map(len, shown.splitlines())) <= 80
