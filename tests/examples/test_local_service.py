"""The page that the quickstart ends with is opened where there is a screen, and nowhere else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = "from local_service import show_in_browser; show_in_browser('http://localhost:1/compare?run=a&run=b')"


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS always has a screen")
@pytest.mark.parametrize("screen", ["DISPLAY", "WAYLAND_DISPLAY", None])
def test_a_page_is_opened_where_there_is_a_screen(screen: str | None, tmp_path: Path) -> None:
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" >{tmp_path}/opened\n')
    browser.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    environment |= {"BROWSER": f"{browser} %s", "PYTHONPATH": str(ROOT / "examples")}
    subprocess.run([sys.executable, "-c", CODE], env=environment | ({screen: ":0"} if screen else {}), check=True)
    opened = tmp_path / "opened"
    assert (opened.read_text() if opened.exists() else None) == (
        "http://localhost:1/compare?run=a&run=b\n" if screen else None
    )
