"""The real Prometheus and Alertmanager tools, and a clear reason where they are missing."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def binary(*names: str) -> str:
    """Return the path of the first of these programs that is installed; skip the test if none is."""
    for name in names:
        if path := shutil.which(name):
            return path
    pytest.skip(f"{names[0]} is not installed: apt-get install prometheus prometheus-alertmanager")


def check(*command: str | Path) -> str:
    """Run a command that has to succeed, and return what it wrote."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
