from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.matrix.support import SECTIONS, TRAINER_NAMES, Row
from tests.tiny import TRAINERS

ROOT = Path(__file__).parent.parent.parent

ROWS = [row for rows in SECTIONS.values() for row in rows]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.what)
def test_every_row_is_proved_by_a_test(row: Row) -> None:
    file, function = row.test.split("::")
    tree = ast.parse((ROOT / file).read_text())
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert row.answer in {"works", "partly", "refused"}


def test_every_trainer_is_in_the_table() -> None:
    assert list(TRAINER_NAMES) == list(TRAINERS)
