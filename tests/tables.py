"""Tables in Markdown files, each between a pair of marks. `python -m tests.tables` writes them as the code has them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from monitor.service.quantities import families
from tests.matrix import support
from tests.training import endings, identities

ROOT = Path(__file__).parent.parent
COMMAND = "python -m tests.tables"


@dataclass(frozen=True)
class Table:
    """A place for a table.

    Attributes:
        name: what the marks around it say.
        path: the file that it stands in.
        content: the table as the code has it.
    """

    name: str
    path: Path
    content: str

    @property
    def marks(self) -> tuple[str, str]:
        """The lines before and after the table."""
        return f"<!-- {self.name}: begin -->", f"<!-- {self.name}: end -->"

    def found(self) -> str:
        """Return what stands between the marks now.

        Raises:
            ValueError: they are not there, once each and in order.
        """
        begin, end = self.marks
        places = re.findall(f"{re.escape(begin)}\n(.*?)\n?{re.escape(end)}", self.path.read_text("utf-8"), re.DOTALL)
        if len(places) != 1:
            raise ValueError(
                f"{self.path.name} has {len(places)} places for the {self.name}; expected {begin} and {end} once."
            )
        return str(places[0])

    def write(self) -> None:
        """Put the table between the marks."""
        self.found()
        begin, end = self.marks
        before, rest = self.path.read_text("utf-8").split(begin)
        self.path.write_text(f"{before}{begin}\n{self.content}\n{end}{rest.split(end)[1]}", "utf-8")


TABLES = (
    Table("support table", ROOT / "tests" / "matrix" / "README.md", support.as_markdown()),
    Table("metrics", ROOT / "monitor" / "service" / "METRICS.md", families.as_markdown()),
    Table("identities", ROOT / "monitor" / "training" / "RUNS.md", identities.as_markdown()),
    Table("endings", ROOT / "monitor" / "training" / "RUNS.md", endings.as_markdown()),
)

if __name__ == "__main__":
    for table in TABLES:
        table.write()
