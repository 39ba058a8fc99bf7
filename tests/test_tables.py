from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.tables import COMMAND, TABLES, Table


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_the_written_table_is_that_of_the_code(table: Table) -> None:
    assert table.found() == table.content, f"write it anew: {COMMAND}"


def test_what_is_around_the_table_stays(tmp_path: Path) -> None:
    table = replace(TABLES[0], path=tmp_path / "README.md")
    begin, end = table.marks
    table.path.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    table.write()
    assert table.path.read_text() == f"before\n{begin}\n{table.content}\n{end}\nafter\n"


@pytest.mark.parametrize("text", ["", "{begin}", "{end}\n{begin}", "{begin}\n{end}\n{begin}\n{end}"])
def test_a_file_without_a_place_for_the_table_is_named(text: str, tmp_path: Path) -> None:
    table = replace(TABLES[0], path=tmp_path / "README.md")
    begin, end = table.marks
    table.path.write_text(text.format(begin=begin, end=end))
    before = table.path.read_text()
    with pytest.raises(ValueError, match="expected <!-- support table: begin --> and"):
        table.write()
    assert table.path.read_text() == before
