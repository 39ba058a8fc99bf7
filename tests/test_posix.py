"""What is said where there are no POSIX locks, as on Windows. It cannot run here: only the lack of them is shown."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
_SENTENCE = "reporting runs, and the service, need Linux or macOS"
_WITHOUT_LOCKS = """
import sys
sys.modules["fcntl"] = None
"""
# These use the locks themselves, where there are some.
_BEFORE = """
try:
    import torch, transformers
except ModuleNotFoundError:
    pass
"""


def _without_locks(code: str, *arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", before + _WITHOUT_LOCKS + code, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)


def test_the_callback_says_so_when_it_is_imported_and_measuring_alone_needs_no_locks() -> None:
    """In one process: importing torch and transformers takes most of the time."""
    code = """
import traceback
try:
    from monitor import SparsityCallback
except ImportError:
    traceback.print_exc()
from monitor import UpdateObserver
print(UpdateObserver(torch.nn.Linear(2, 2)).observe(1).step)
"""
    done = _without_locks(code, before=_BEFORE)
    assert done.returncode == 0
    assert done.stderr.splitlines()[-1].startswith(f"monitor.errors.UnsupportedSystemError: {_SENTENCE}")
    assert done.stdout.strip() == "1"


@pytest.mark.parametrize("arguments", [("serve",), ("push", "."), ("push", ".", "without typer")])
def test_a_command_that_needs_locks_says_so_in_one_line(arguments: tuple[str, ...]) -> None:
    missing = "typer" if "without typer" in arguments else "nothing"
    code = f"sys.modules[{missing!r}] = None\nfrom monitor.cli import main\nmain()"
    done = _without_locks(code, *arguments[:2])
    assert done.returncode == 1
    assert done.stderr.startswith(_SENTENCE)
    assert len(done.stderr.splitlines()) == 1


def test_the_package_claims_no_other_system() -> None:
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    systems = {name for name in classifiers if name.startswith("Operating System")}
    assert systems == {"Operating System :: MacOS", "Operating System :: POSIX :: Linux"}
