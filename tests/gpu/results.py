"""The Markdown file with the results: written anew whenever there is something new, so that a killed run leaves it."""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from tests.gpu.stages import Stage, as_text

_FAILED_TESTS_SHOWN = 20


@dataclass
class Run:
    """What became of a stage.

    Attributes:
        lines: what a benchmark printed.
        outcomes: file that tests/gpu/outcomes.py writes, of a stage that runs tests.
        ended: how it ended, in words; empty while it is under way.
    """

    stage: Stage
    outcomes: Path
    lines: list[str] = field(default_factory=list)
    ended: str = "not run"
    seconds: float = 0.0
    failed: bool = False
    skipped: bool = False

    def tests(self) -> list[dict[str, str]]:
        """Return outcome, name and reason of each test so far."""
        if not self.outcomes.exists():
            return []
        return [json.loads(line) for line in self.outcomes.read_text(encoding="utf-8").splitlines()]

    def passed(self) -> int:
        """Return how many tests passed so far."""
        return sum(test["outcome"] == "passed" for test in self.tests())

    def row(self) -> str:
        """Return its line in the table of stages."""
        tests = self.tests()
        counts = Counter(test["outcome"] for test in tests)
        why = Counter(test["reason"] for test in tests if test["outcome"] == "skipped")
        said = [f"{counts[outcome]} {outcome}" for outcome in ("passed", "failed") if counts[outcome]]
        said += [f"{count} skipped ({reason})" for reason, count in why.items()]
        found = ": ".join(part for part in (self.ended, ", ".join(said)) if part)
        return f"| {self.stage.name} | {_cell(found)} | {self.seconds:.0f} |"


class Results:
    """Writes `path`: the machine, what became of each stage, then the tables by section."""

    def __init__(self, path: Path, heading: Sequence[str], machine: Iterable[tuple[str, str]], runs: list[Run]) -> None:
        self._path = path
        self._heading = heading
        self._machine = list(machine)
        self._runs = runs
        # A stage's lines are read by a thread of its own.
        self._writing = threading.Lock()

    def write(self) -> None:
        """Write what is known by now."""
        lines = [*self._heading, "", "| | |", "|---|---|"]
        lines += [f"| {name} | {_cell(value)} |" for name, value in self._machine]
        lines += ["", "| stage | what became of it | seconds |", "|---|---|---|", *(run.row() for run in self._runs)]
        lines += self._failed_tests()
        for section, runs in groupby(sorted(self._runs, key=self._section), key=lambda run: run.stage.section):
            there = [run for run in runs if run.lines]
            if there:
                lines += ["", f"## {section}", "", "```bash", *(as_text(run.stage) for run in there), "```", ""]
                lines += _merged(run.lines for run in there)
        partial = self._path.with_suffix(".partial")
        with self._writing:
            partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
            os.replace(partial, self._path)

    def _section(self, run: Run) -> int:
        sections = [each.stage.section for each in self._runs]
        return sections.index(run.stage.section)

    def _failed_tests(self) -> list[str]:
        failed = [test for run in self._runs for test in run.tests() if test["outcome"] == "failed"]
        if not failed:
            return []
        more = [f"- and {len(failed) - _FAILED_TESTS_SHOWN} more"] if len(failed) > _FAILED_TESTS_SHOWN else []
        shown = [f"- `{test['name']}`: {test['reason']}" for test in failed[:_FAILED_TESTS_SHOWN]]
        return ["", "Failed tests:", "", *shown, *more]


def _merged(tables: Iterable[list[str]]) -> list[str]:
    """Join what was printed: a table with the same head as the one before goes on with it."""
    merged: list[str] = []
    head: list[str] = []
    for lines in tables:
        if lines[:2] == head:
            merged += lines[2:]
        else:
            merged += [*([""] if merged else []), *lines]
            head = lines[:2]
    return merged


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
