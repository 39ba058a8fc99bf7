"""A report as one HTML file: headings, paragraphs, tables, plots as SVG in the page; no script, for light and dark."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from monitor.observe.masks.file import written_whole
from monitor.terminal import printable
from monitor.version import __version__

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Told apart by the colour-blind, too, and seen on white and on black (Okabe and Ito).
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")

_STYLE = """
:root { color-scheme: light dark; --line: #d0d0d0; --quiet: #666; }
@media (prefers-color-scheme: dark) { :root { --line: #444; --quiet: #aaa; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2, h3 { line-height: 1.2; margin-top: 2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
.wide { overflow-x: auto; }
th, td { padding: .2rem .7rem; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap; }
.number { text-align: right; }
figure { margin: 1rem 0; }
figcaption, caption, footer { color: var(--quiet); font-size: .9rem; text-align: left; }
svg { max-width: 100%; height: auto; }
svg text { fill: currentColor; }
"""
_INCHES_WIDE = 8.0


class Report:
    """A report, written part by part, in order. All text is escaped.

    >>> report = Report("Updates of a < b")
    >>> report.paragraph("Nothing changed.")
    >>> report.table(["layer", "changed"], [["00", 12]])
    >>> "<h1>Updates of a &lt; b</h1>" in report.text()
    True
    """

    def __init__(self, title: str) -> None:
        self._title = title
        self._parts: list[str] = []

    def heading(self, text: str, level: int = 2) -> None:
        """Begin a section; `level` is 2 or 3."""
        self._parts.append(f"<h{level}>{_text(text)}</h{level}>")

    def paragraph(self, text: str) -> None:
        """Add a paragraph."""
        self._parts.append(f"<p>{_text(text)}</p>")

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]], caption: str = "") -> None:
        """Add a table. Numbers, and texts that begin with a digit, a sign or a point, stand to the right."""
        right = [all(is_number(row[i]) for row in rows) for i in range(len(columns))]
        head = "".join(_cell("th", column, right[i]) for i, column in enumerate(columns))
        body = "".join(
            "<tr>" + "".join(_cell("td", cell, right[i]) for i, cell in enumerate(row)) + "</tr>\n" for row in rows
        )
        title = f"<caption>{_text(caption)}</caption>" if caption else ""
        self._parts.append(
            f'<div class="wide"><table>{title}<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>'
        )

    @contextmanager
    def plot(self, caption: str = "", *, height: float = 3.0) -> Iterator[Axes]:
        """Add a plot of 8 inches by `height`: draw it on the axes that this yields.

        Use colours of COLORS; text, ticks and frame follow the page.
        """
        import matplotlib
        from matplotlib.figure import Figure

        # The names of shapes in the drawing are made of the salt: the same in every run, others in every plot.
        settings = {"svg.fonttype": "none", "svg.hashsalt": str(len(self._parts)), "font.family": "sans-serif"}
        with matplotlib.rc_context(settings):
            figure = Figure(figsize=(_INCHES_WIDE, height), layout="constrained")
            axes = figure.add_subplot()
            axes.spines[["top", "right"]].set_visible(False)
            yield axes
            written = io.StringIO()
            figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
        below = f"<figcaption>{_text(caption)}</figcaption>" if caption else ""
        self._parts.append(f"<figure>{_inline(written.getvalue())}{below}</figure>")

    def text(self) -> str:
        """Return the page."""
        body = "\n".join(self._parts)
        return (
            f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{_text(self._title)}</title>\n'
            '<meta name="viewport" content="width=device-width">\n'
            f"<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{_text(self._title)}</h1>\n{body}\n"
            f"<footer>Written by sparsity-monitor {__version__}.</footer>\n</body>\n</html>\n"
        )

    def write(self, path: Path) -> None:
        """Write the page; it appears under `path` only when it is complete.

        Raises:
            OSError: it cannot be written; what was at `path` is still there.
        """
        with written_whole(path) as file:
            file.write(self.text().encode())


def _text(text: object) -> str:
    return escape(printable(str(text)))


def is_number(cell: object) -> bool:
    """Return whether a cell is a number, or a text that begins as one: with a digit, a sign or a point."""
    return isinstance(cell, int | float) or str(cell)[:1] in {*"0123456789.+-−–<>≥≤"}


def _cell(tag: str, content: object, right: bool) -> str:
    kind = ' class="number"' if right else ""
    return f"<{tag}{kind}>{_text(content)}</{tag}>"


def _inline(svg: str) -> str:
    """Return the drawing alone, in the colour of the text around it, with no names that a second one has, too."""
    drawing = svg[svg.index("<svg") :].replace("#000000", "currentColor")
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    return re.sub(r'<g id="[^"]*">', "<g>", drawing)
