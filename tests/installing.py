"""Installs packages into environments, with uv: it takes a fraction of the time that pip does."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from uv import find_uv_bin

ROOT = Path(__file__).parents[1]
_UNREACHABLE = re.compile(r"error sending request|dns error|tcp connect error|operation timed out", re.IGNORECASE)


def uv(*arguments: str | Path) -> None:
    """Run uv in the checkout, and skip the test where no package index can be reached."""
    environment = clean_environment(UV_PYTHON_DOWNLOADS="never")
    done = subprocess.run(
        [find_uv_bin(), "--quiet", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0 and (failure := _UNREACHABLE.search(done.stderr)):
        pytest.skip(f"what the environment needs is not there yet, and no package index can be reached ({failure[0]})")
    assert done.returncode == 0, done.stdout + done.stderr


def clean_environment(**changes: str) -> dict[str, str]:
    """Return the environment variables without those of the tests that run, and of their environment.

    What says where packages are, and how to get there, stays.
    """
    foreign = ("PYTEST_", "VIRTUAL_ENV", "PYTHONPATH", "UV_PROJECT", "UV_PYTHON", "UV_SYSTEM_PYTHON")
    return {name: value for name, value in os.environ.items() if not name.startswith(foreign)} | changes
