"""Report: one file that stands alone, in which nothing of what is shown can act."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest

from monitor.analysis.html import COLORS, Report


class _Tags(HTMLParser):
    """The tags that are open at the end, and all that there were."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in {"meta", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def _report() -> Report:
    report = Report("<script>alert(1)</script>")
    report.heading("A & B")
    report.paragraph("of \x1b[2J")
    report.table(["layer", "density"], [["07", "12.00 %"], ["-", "<b>"]], caption="by <layer>")
    with report.plot("over layers") as axes:
        axes.plot([0, 1], [0, 1], color=COLORS[0])
        axes.set_xlabel("layer <i>")
    with report.plot() as axes:
        axes.bar([0, 1], [1, 2], color=COLORS[1])
    return report


def test_the_page_is_whole_and_loads_and_runs_nothing() -> None:
    page = _Tags(_report().text())
    assert not page.open
    tags = [tag for tag, _ in page.seen]
    assert tags.count("svg") == 2
    assert not {"script", "link", "img", "b", "i", "iframe"} & {*tags}
    links = [value for _, attributes in page.seen for name, value in attributes.items() if name in {"src", "href"}]
    assert not [link for link in links if link and not link.startswith("#")]


def test_plots_are_seen_in_the_dark_too_and_no_id_is_there_twice() -> None:
    page = _report().text()
    assert "#000000" not in page
    assert "#ffffff" not in page
    named = [attributes["id"] for _, attributes in _Tags(page).seen if "id" in attributes]
    of_shapes = [name for name in named if named.count(name) > 1]
    assert not of_shapes


def test_numbers_stand_to_the_right_where_a_column_has_nothing_else() -> None:
    report = Report("t")
    report.table(["module", "changed"], [["q_proj", 3], ["07", 4]])
    assert '<td>07</td><td class="number">4</td>' in report.text()


def test_a_report_that_cannot_be_written_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "report.html").write_text("before")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: .*report\.html"):
        _report().write(tmp_path / "report.html")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]
