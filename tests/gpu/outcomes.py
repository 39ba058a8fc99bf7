"""A plugin of pytest: what became of each test goes to the file that GPU_OUTCOMES names, as it comes.

So a run that is stopped leaves what it had. One line of JSON for each test, or for each file that could not be read.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest


class Outcomes:
    """Appends to a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test ran, or a part of it went wrong."""
        if report.when == "call" or report.outcome != "passed":
            self._append(report.outcome, report.nodeid, report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file was read: what it lacks skips all of it."""
        if report.outcome != "passed":
            self._append(report.outcome, report.nodeid, report)

    def _append(self, outcome: str, name: str, report: pytest.TestReport | pytest.CollectReport) -> None:
        line = {"outcome": outcome, "name": name, "reason": _reason(report)}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    # The last line that says what is wrong, of which a traceback has many.
    wrong = [line.removeprefix("E").strip() for line in report.longreprtext.splitlines() if line.startswith("E ")]
    return wrong[0] if wrong else ""


def pytest_configure(config: pytest.Config) -> None:
    """Listen once: the processes that share the work hand on what they see."""
    path = os.environ.get("GPU_OUTCOMES")
    if path and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Outcomes(Path(path)))
