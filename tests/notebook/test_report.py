"""`sparsity-monitor report` as a person meets it: a page with the integers of its source, and words for bad input."""

from __future__ import annotations

import json
import re
import subprocess
from html import unescape
from itertools import pairwise
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import typer
from matplotlib.image import imread
from typer.testing import CliRunner, Result

from monitor.notebook.commands import add_report
from monitor.report.spool.attempt import AttemptKey
from monitor.report.spool.items import Spool
from monitor.wire import monitor_pb2 as pb
from tests.notebook.conftest import STEPS, Trained
from tests.service.messages import changed, observed, registration
from tests.service.running import COMMAND
from tests.spooled import spooled


def report(*arguments: object) -> Result:
    app = typer.Typer()
    app.callback()(lambda: None)
    add_report(app)
    return CliRunner().invoke(app, ["report", *map(str, arguments)], env={"COLUMNS": "80"})


def rows_of(page: Path) -> list[list[str]]:
    """The cells of every row of every table."""
    rows = re.findall(r"<tr>(.*?)</tr>", page.read_text(), re.DOTALL)
    return [[unescape(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)] for row in rows]


def test_a_directory_and_a_service_give_a_page_with_the_integers_of_the_training(
    trained: Trained, tmp_path: Path
) -> None:
    page = tmp_path / "report.html"
    command = [COMMAND, "report", str(trained.output), f"{trained.url}#{trained.run_id}", "-o", str(page)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == (f"written: {page}\n", "")
    rows, last = rows_of(page), spooled(trained.callback, "observation")[-1]
    for name in ("changed", "step_changed", "touched", "hidden"):
        total = f"{sum(getattr(last, name)):,}"
        assert [name.replace("_", " "), total, total] in rows
    groups = [row for row in rows if len(row) == 8 and re.fullmatch(r"-|\d\d", row[0])]
    assert len(groups) == 2 * len(last.changed)
    assert [row[3] for row in groups] == [f"{count:,}" for count in [*last.changed, *last.changed]]
    # As a matrix of layers and modules, too.
    shares = {(row[0], row[1].split(".")[-1]): row[6] for row in groups}
    head, first = next((head, row) for head, row in pairwise(rows) if "q_proj" in head)
    assert first == ["00", *(shares["00", module] for module in head[1:])]
    intersection = f"{sum(last.references[0].intersection):,}"
    assert [row[4] for row in rows if row[1:2] == ["lowest"]] == [intersection] * 2
    assert ["step", str(STEPS), str(STEPS)] in rows


def test_programs_learn_what_is_in_the_page_and_what_is_missing(trained: Trained, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    told = json.loads(report(trained.delivered, trained.output, "-o", page, "--json").stdout)
    assert told["file"] == str(page)
    assert [(run["run_id"], bool(run["missing"])) for run in told["runs"]] == [
        (trained.run_id, True),
        (trained.run_id, False),
    ]


def test_a_pdf_has_the_tables_of_the_page(trained: Trained, tmp_path: Path) -> None:
    page, paper = tmp_path / "report.html", tmp_path / "report.pdf"
    # So that what is on it can be read here.
    with matplotlib.rc_context({"pdf.compression": 0}):
        for output in (page, paper):
            assert report(trained.output, "-o", output).exit_code == 0
    written = paper.read_bytes()
    assert written.startswith(b"%PDF-")
    # A text is given in pieces, between which letters are moved.
    texts = [
        b"".join(re.findall(rb"\(((?:\\.|[^\\)])*)\)", text)).decode("latin-1")
        for text in re.findall(rb"\nBT\n(.*?)\nET\n", written, re.DOTALL)
    ]
    groups = [row for row in rows_of(page) if len(row) == 8 and re.fullmatch(r"-|\d\d", row[0])]
    assert len(groups) > 10
    for row in groups:
        assert " ".join(row) in [" ".join(text.split()) for text in texts]


def test_a_png_has_all_of_it_without_a_gap(trained: Trained, tmp_path: Path) -> None:
    paper = tmp_path / "report.png"
    assert report(trained.output, trained.output, "-o", paper).exit_code == 0
    white = (imread(paper)[:, :, :3] == 1).all(axis=(1, 2))
    assert len(white) > 3000
    gaps = np.diff(np.flatnonzero(~white))
    # An inch, at most.
    assert gaps.max() < 150
    assert report(trained.output, "-o", paper).exit_code == 1


def test_the_page_needs_nothing_else_and_says_what_was_measured(trained: Trained, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    assert report(trained.output, "-o", page).exit_code == 0
    text = page.read_text()
    named = re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)|url\(\s*["']?([^"')]*)""", text)
    assert all("".join(each).startswith("#") for each in named)
    assert "<script" not in text
    assert "@import" not in text
    assert "<b>" not in text
    assert text.count("<svg") == 2
    assert "published RL 36–96 %" in text
    rows = rows_of(page)
    for expected in (["counts as changed", "bits"], ["visible dtype", "bfloat16"], ["label seed", "0"]):
        assert expected in rows
    assert ["tiny <b>", "finished", "", "1"] in rows


def _recorded(directory: Path, message: pb.Registration) -> Path:
    key = AttemptKey(message.run_id, 1)
    spool = Spool(directory)
    spool.begin(key, message.SerializeToString())
    spool.append(key, [(1, observed(1, hidden=[], references=[]).SerializeToString())])
    spool.close()
    return directory


def test_runs_that_count_differently_are_not_compared_in_silence(tmp_path: Path) -> None:
    bits = _recorded(tmp_path / "bits", registration("one"))
    atol = pb.Criterion(atol=pb.Criterion.Atol(tolerance=1e-5))
    other = _recorded(tmp_path / "atol", changed(registration("two"), criterion=atol))
    page = tmp_path / "report.html"
    assert report(bits, other, "-o", page).exit_code == 0
    assert "their sparsities are not comparable" in page.read_text()
    rows = rows_of(page)
    assert ["counts as changed", "bits", "atol=1e-05"] in rows
    # Runs of one name are told apart, and what was not measured is no zero.
    assert ["", "a run one", "a run two"] in rows
    assert ["hidden", "not measured", "not measured"] in rows


def test_what_the_service_took_is_said_on_the_page_and_in_the_terminal(trained: Trained, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    result = report(trained.delivered, "-o", page)
    assert result.exit_code == 0
    assert "because the service has them" in result.stderr
    assert "because the service has them" in page.read_text()
    assert "<svg" not in page.read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere", "-o", "report.html"], "there is no spool.sqlite in 'nowhere'"),
        (["nowhere", "-o", "report.docx"], "expected a name that ends in .html, .pdf or .png."),
        (["nowhere", "-o", "nowhere/report.pdf"], "which cannot be written"),
        (["http://127.0.0.1:1", "-o", "report.html"], "cannot reach a service at http://127.0.0.1:1"),
    ],
)
def test_bad_input_is_answered_in_one_sentence(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = report(*arguments)
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert said in str(result.exception)
    assert not list(tmp_path.iterdir())
