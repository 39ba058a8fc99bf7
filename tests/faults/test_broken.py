"""The fast form of what `python -m tests.faults` does more often."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.broken import BROKEN, ONLY_LONG


@pytest.mark.parametrize("name", [name for name in BROKEN if name not in ONLY_LONG])
def test_nothing_is_lost_doubled_or_disturbed(name: str, tmp_path: Path) -> None:
    assert BROKEN[name](tmp_path, 1).observations > 0
