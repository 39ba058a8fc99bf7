"""What README.md says is what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from monitor.service.families import as_markdown

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_table_of_metrics_is_that_of_the_code() -> None:
    between = re.search(r"<!-- metrics: begin -->\n(.*?)\n<!-- metrics: end -->", README, re.DOTALL)
    assert between is not None
    assert between[1] == as_markdown(), (
        "write it anew: python -c 'from monitor.service.families import as_markdown; print(as_markdown())'"
    )


@pytest.mark.parametrize("command", ["bash examples/quickstart.sh", "bash tests/run.sh"])
def test_the_two_commands_exist(command: str) -> None:
    assert command in README
    assert (ROOT / command.removeprefix("bash ")).is_file()


def test_links_into_the_repository_lead_somewhere() -> None:
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", README)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []
