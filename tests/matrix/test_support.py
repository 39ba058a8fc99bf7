from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.matrix.support import (
    BEGIN,
    COMMAND,
    END,
    README,
    ROOT,
    SECTIONS,
    TRAINER_NAMES,
    as_markdown,
    table_in,
    write_into,
)
from tests.tiny import TRAINERS

ROWS = [row for rows in SECTIONS.values() for row in rows]


def test_readme_has_this_table() -> None:
    assert table_in(README.read_text()) == as_markdown(), f"write it anew: {COMMAND}"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.what)
def test_every_row_is_proved_by_a_test(row: object) -> None:
    file, function = row.test.split("::")
    tree = ast.parse((ROOT / file).read_text())
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert row.answer in {"works", "partly", "refused"}


def test_every_trainer_is_in_the_table() -> None:
    assert list(TRAINER_NAMES) == list(TRAINERS)


def test_what_is_around_the_table_stays(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_into(readme)
    assert readme.read_text() == f"before\n{BEGIN}\n{as_markdown()}\n{END}\nafter\n"


@pytest.mark.parametrize("text", ["", BEGIN, f"{END}\n{BEGIN}", f"{BEGIN}\n{END}\n{BEGIN}\n{END}"])
def test_a_readme_without_a_place_for_the_table_is_named(text: str, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(text)
    with pytest.raises(ValueError, match="expected <!-- support table: begin --> and"):
        write_into(readme)
    assert readme.read_text() == text
