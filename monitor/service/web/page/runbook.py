"""The runbook that comes with the package, Markdown → HTML: what the links in alerts lead to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup


@dataclass(frozen=True)
class Runbook:
    """The runbook as the page shows it.

    Attributes:
        body: its HTML.
        chapters: (anchor, title) of each chapter; the anchor is what an alert's link ends with.
    """

    body: Markup
    chapters: tuple[tuple[str, str], ...]


def packaged_runbook() -> Runbook:
    """Return the runbook that this version was released with."""
    text = Path(__file__).with_name("runbook.md").read_text(encoding="utf-8")
    # The first line is for who edits the file.
    return rendered(text.partition("\n")[2])


def rendered(markdown: str) -> Runbook:
    """Return Markdown as HTML; HTML in it is shown as text.

    >>> rendered("## RunLost").body
    Markup('<h2 id="runlost">RunLost</h2>\\n')
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(markdown)
    chapters = tuple(_with_anchors(tokens))
    html: str = parser.renderer.render(tokens, parser.options, {})
    # Wide tables scroll by themselves, as on the other pages.
    html = html.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")
    return Runbook(Markup(html), chapters)


def _with_anchors(tokens: Sequence[Token]) -> list[tuple[str, str]]:
    """Give the chapters the anchors that Markdown's other readers give them, and return these with their titles."""
    found = []
    for heading, title in pairwise(tokens):
        if heading.type == "heading_open" and heading.tag == "h2":
            anchor = title.content.lower().replace(" ", "-")
            heading.attrSet("id", anchor)
            found.append((anchor, title.content))
    return found
