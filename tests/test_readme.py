"""What README.md says is what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
DOCUMENTS = (
    "README.md",
    "examples/FRAMEWORKS.md",
    "monitor/analysis/delta/FORMAT.md",
    "monitor/observe/MEASURED.md",
    "monitor/service/ACCESS.md",
    "monitor/service/METRICS.md",
    "monitor/service/SCALE.md",
    "monitor/service/STORE.md",
    "tests/benchmarks/README.md",
    "monitor/service/web/page/runbook.md",
    "monitor/training/ENVIRONMENT.md",
    "monitor/training/RUNS.md",
    "tests/matrix/README.md",
)


@pytest.mark.parametrize("command", ["bash examples/quickstart.sh", "bash tests/run.sh"])
def test_the_two_commands_exist(command: str) -> None:
    assert command in README
    assert (ROOT / command.removeprefix("bash ")).is_file()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_into_the_repository_lead_somewhere(document: str) -> None:
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", (ROOT / document).read_text())
    assert [target for target in targets if not (ROOT / document).parent.joinpath(target).exists()] == []


def test_a_newcomer_reads_it_to_the_end() -> None:
    lines = README.splitlines()
    assert len(lines) <= 200
    assert len(lines[lines.index("## How it is built") + 1 :]) <= 40


def test_files_to_change_are_where_it_says() -> None:
    _, built = README.split("## How it is built")
    named = [
        path
        for row in re.findall(r"^\|.*\|$", built, re.MULTILINE)
        for path in re.findall(r"`([\w/]+(?:\.py|/))`", row)
    ]
    assert len(named) > 10
    places = [ROOT / "monitor", ROOT, *(ROOT / "monitor" / room for room in ("observe/kernels", "grafana/alerts"))]
    assert [path for path in named if not any((place / path).exists() for place in places)] == []
