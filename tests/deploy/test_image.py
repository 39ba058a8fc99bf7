"""The image, as far as it can be checked without a Docker engine: what goes into it, and that it suffices."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.deploy.test_generated import DEPLOY

DOCKERFILE = (DEPLOY / "Dockerfile").read_text("utf-8")
_WITHOUT = """
import sys
sys.modules.update(dict.fromkeys({modules!r}))
import monitor.service.server
from monitor.cli import main
sys.argv = ["sparsity-monitor", "serve", "--help"]
main()
"""


def test_image_is_pinned_and_runs_as_nobody_in_particular() -> None:
    assert set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)) == {"python:3.12.11-slim-bookworm"}
    assert "USER 10001:10001" in DOCKERFILE
    assert DOCKERFILE.rindex("USER ") > DOCKERFILE.rindex("RUN ")


def test_image_holds_the_service_and_its_database_driver() -> None:
    """What these extras bring, and that no torch is among it, is tested in test_installed.py."""
    assert 'pip install --no-cache-dir ".[service,postgresql]"' in DOCKERFILE


def test_service_starts_without_what_only_training_needs() -> None:
    absent = ["torch", "safetensors", "transformers", "trl", "grafana_foundation_sdk", "grafana_api", "yaml"]
    command = [sys.executable, "-W", "error", "-c", _WITHOUT.format(modules=absent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--store-url" in done.stdout


def test_what_is_copied_is_not_ignored() -> None:
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    taken = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    copied = {
        part for line in re.findall(r"^COPY (?!--from)(.+)", DOCKERFILE, re.MULTILINE) for part in line.split()[:-1]
    }
    assert copied == taken
    assert all((DEPLOY.parent / name).exists() for name in copied)
