"""What the training process loads, and what its uploader."""

from __future__ import annotations

import subprocess
import sys

import pytest

from monitor.report.processes import interpreter
from tests.processes import Processes


def test_reporting_imports_neither_torch_nor_grpc() -> None:
    # The uploader must stay small, and the training process must stay without gRPC's threads.
    code = "import sys, monitor.report.reporter as _; print(sorted({'torch', 'grpc'} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


@pytest.mark.xdist_group("training processes")
def test_the_callback_does_not_import_grpc(processes: Processes) -> None:
    code = "import sys; from monitor import SparsityCallback; print('grpc' in sys.modules)"
    assert "False" in processes.run(code).written.splitlines()


def test_the_uploader_does_not_import_torch() -> None:
    code = "import sys, monitor.report.uploader.__main__ as _; print('torch' in sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "False"


def test_a_training_of_an_earlier_version_starts_the_uploader_by_the_name_that_it_knows() -> None:
    """Where the package is upgraded while it runs, its next uploader is of the new version."""
    command = [*interpreter.command("monitor.report.uploader"), "--help"]
    asked = subprocess.run(command, env=interpreter.environment(), capture_output=True, text=True, check=True)
    assert "directory target parent run_id attempt" in asked.stdout
