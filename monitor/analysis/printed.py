"""A report on paper: the parts that `html.Report` has, as pages of PDF, or one below the other as PNG."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from monitor.analysis.html import is_number
from monitor.observe.masks.file import written_whole
from monitor.terminal import printable
from monitor.version import __version__

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# A4, in inches.
_WIDTH, _HEIGHT, _MARGIN = 8.27, 11.69, 0.6
_POINTS_PER_INCH = 72
_SIZES = {1: 16.0, 2: 13.0, 3: 11.0}
_TEXT_SIZE, _CAPTION_SIZE, _TABLE_SIZE = 9.0, 8.0, 8.0
_LINE = 1.4
# Of a character, as a share of the size of its font: on average, and of the one in which all are alike.
_CHARACTER, _FIXED_CHARACTER = 0.56, 0.61
_BETWEEN_COLUMNS = "  "
_PNG_DPI = 150


class PrintedReport:
    """A report, written part by part, in order; what does not fit a page goes on the next one."""

    def __init__(self, title: str) -> None:
        self._pages: list[Figure] = []
        # What is left of the last page, and of those before it, in inches.
        self._left = 0.0
        self._empty: list[float] = []
        self.heading(title, 1)

    def heading(self, text: str, level: int = 2) -> None:
        """Begin a section; `level` is 2 or 3."""
        # Not at the end of a page, alone.
        self._need(1.5)
        self._left -= 0.15
        self._text(text, _SIZES[level], weight="bold")

    def paragraph(self, text: str) -> None:
        """Add a paragraph."""
        self._text(text, _TEXT_SIZE)
        self._left -= 0.08

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]], caption: str = "") -> None:
        """Add a table; numbers stand to the right. Its letters are as small as its width needs."""
        head, *body = [[printable(str(cell)) for cell in row] for row in (columns, *rows)]
        widths = [max(map(len, cells)) for cells in zip(head, *body, strict=True)]
        right = [all(is_number(row[i]) for row in rows) for i in range(len(columns))]
        characters = sum(widths) + len(_BETWEEN_COLUMNS) * (len(widths) - 1)
        size = min(_TABLE_SIZE, (_WIDTH - 2 * _MARGIN) * _POINTS_PER_INCH / (characters * _FIXED_CHARACTER))
        if caption:
            self._need(1.0)
            self._text(caption, _CAPTION_SIZE, color="dimgray")
        for number, row in enumerate((head, *body)):
            cells = [
                cell.rjust(width) if at_right else cell.ljust(width)
                for cell, width, at_right in zip(row, widths, right, strict=True)
            ]
            self._line(_BETWEEN_COLUMNS.join(cells), size, family="monospace", weight="normal" if number else "bold")
        self._left -= 0.15

    @contextmanager
    def plot(self, caption: str = "", *, height: float = 3.0) -> Iterator[Axes]:
        """Add a plot as wide as the page by `height` inches: draw it on the axes that this yields."""
        self._need(height + 0.5)
        bottom = (_MARGIN + self._left - height) / _HEIGHT
        place = (_MARGIN / _WIDTH, bottom, 1 - 2 * _MARGIN / _WIDTH, height / _HEIGHT)
        axes = self._pages[-1].add_axes(place)
        axes.spines[["top", "right"]].set_visible(False)
        yield axes
        _fit(axes, self._pages[-1], place)
        self._left -= height + 0.1
        self._text(caption, _CAPTION_SIZE, color="dimgray")

    def write(self, path: Path) -> None:
        """Write the report in the format that the name ends in; it appears under `path` only when it is complete.

        Raises:
            OSError: it cannot be written; what was at `path` is still there.
        """
        self._text(f"Written by sparsity-monitor {__version__}.", _CAPTION_SIZE, color="dimgray")
        with written_whole(path) as file:
            if path.suffix == ".png":
                self._write_png(file)
            else:
                self._write_pdf(file)

    def _write_pdf(self, file: BinaryIO) -> None:
        from matplotlib.backends.backend_pdf import PdfPages

        with PdfPages(file, metadata={"CreationDate": None}) as pdf:
            for page in self._pages:
                pdf.savefig(page)

    def _write_png(self, file: BinaryIO) -> None:
        import numpy as np
        from matplotlib.image import imread, imsave
        from matplotlib.transforms import Bbox

        images: list[np.ndarray] = []
        for page, empty in zip(self._pages, (*self._empty, self._left), strict=True):
            written, top = io.BytesIO(), _HEIGHT - (_MARGIN / 2 if images else 0.0)
            box = Bbox([[0.0, _MARGIN / 2 + empty], [_WIDTH, top]])
            page.savefig(written, format="png", dpi=_PNG_DPI, bbox_inches=box)
            written.seek(0)
            images.append(imread(written))
        imsave(file, np.concatenate(images), format="png")

    def _text(self, text: str, size: float, **style: Any) -> None:
        characters = int((_WIDTH - 2 * _MARGIN) * _POINTS_PER_INCH / (size * _CHARACTER))
        for line in textwrap.wrap(printable(text), characters):
            self._line(line, size, **style)

    def _line(self, text: str, size: float, **style: Any) -> None:
        height = size * _LINE / _POINTS_PER_INCH
        self._need(height)
        place = (_MARGIN / _WIDTH, (_MARGIN + self._left) / _HEIGHT)
        self._pages[-1].text(*place, text, fontsize=size, va="top", parse_math=False, **style)
        self._left -= height

    def _need(self, height: float) -> None:
        """Begin a page, unless so much is left of the last one."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        if not self._pages or self._left < height:
            self._empty += [self._left] * bool(self._pages)
            page = Figure(figsize=(_WIDTH, _HEIGHT))
            FigureCanvasAgg(page)
            self._pages.append(page)
            self._left = _HEIGHT - 2 * _MARGIN


def _fit(axes: Axes, page: Figure, place: tuple[float, float, float, float]) -> None:
    """Make axes so much smaller that labels and legend fit, too, into a place: left, bottom, width and height."""
    outer = axes.get_tightbbox()
    if outer is None:
        return
    x, y, width, height = place
    inner, outer = axes.get_position(), outer.transformed(page.transFigure.inverted())
    left, below = inner.x0 - outer.x0, inner.y0 - outer.y0
    right, above = outer.x1 - inner.x1, outer.y1 - inner.y1
    axes.set_position((x + left, y + below, max(0.1, width - left - right), max(0.02, height - below - above)))
