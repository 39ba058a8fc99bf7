"""Environments with the lowest and the newest versions, made once and kept in the environment that runs the tests."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock
from uv import find_uv_bin

ROOT = Path(__file__).parents[2]
_HERE = Path(__file__).parent
_UNREACHABLE = re.compile(r"error sending request|dns error|tcp connect error|operation timed out", re.IGNORECASE)
# What belongs to the distribution alone: its requirements are in the list of the environment.
_TORCH = """
import importlib.metadata, json
try:
    torch = importlib.metadata.distribution("torch")
except importlib.metadata.PackageNotFoundError:
    print("[]")
else:
    tops = {file.parts[0] for file in torch.files if file.parts[0] not in ("..", "__pycache__")}
    print(json.dumps(sorted(str(torch.locate_file(top)) for top in tops)))
"""


class Environment:
    """Packages as tests/floors/NAME.txt pins them, torch of the Python it is made with, and this checkout.

    Attributes:
        torch: whether there was a torch to lend.
    """

    def __init__(self, name: str, base: str) -> None:
        requirements = _HERE / f"{name}.txt"
        lent = [Path(path) for path in json.loads(_printed(base, _TORCH))]
        self.torch = bool(lent)
        key = _digest(requirements.read_text(), _printed(base, "import sys; print(sys.version)"), str(lent), str(ROOT))
        directory = Path(sys.prefix) / "floors" / f"{name}-{key}"
        directory.parent.mkdir(exist_ok=True)
        self.python = directory / "bin" / "python"
        # Others may want the same one: workers beside this one, or another run of the tests.
        with FileLock(directory.parent / f"{name}.lock"):
            if not directory.exists():
                # Of other requirements, or of a run that was killed while it made one.
                for leftover in directory.parent.glob(f"{name}-*"):
                    shutil.rmtree(leftover)
                making = directory.with_name(f"{name}-in-the-making")
                _make(making, base, requirements, lent)
                making.rename(directory)

    def pytest(self, *tests: str) -> str:
        """Run tests of this checkout in the environment, all of which have to pass. Returns the last line."""
        # What older and newer releases warn of is theirs to mend.
        options = ["-q", "-rs", "-p", "no:cacheprovider", "--override-ini", "filterwarnings="]
        done = subprocess.run(
            [self.python, "-m", "pytest", *options, *tests],
            cwd=ROOT,
            env=_environment(NUMBA_CACHE_DIR=str(self.python.parents[1] / "numba")),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.splitlines()[-1]


def _make(directory: Path, base: str, requirements: Path, lent: list[Path]) -> None:
    _uv("venv", "--relocatable", "--python", base, directory)
    python = directory / "bin" / "python"
    _uv("pip", "install", "--python", python, "--no-deps", "--only-binary", ":all:", "--requirements", requirements)
    _uv("pip", "install", "--python", python, "--no-deps", "--editable", ROOT)
    (packages,) = directory.glob("lib/python*/site-packages")
    for path in lent:
        (packages / path.name).symlink_to(path)


def _uv(*arguments: str | Path) -> None:
    """Run uv, and skip the test where no package index can be reached."""
    environment = _environment(UV_PYTHON_DOWNLOADS="never")
    done = subprocess.run(
        [find_uv_bin(), "--quiet", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0 and (failure := _UNREACHABLE.search(done.stderr)):
        pytest.skip(f"the environment is not there yet, and the package index cannot be reached ({failure[0]})")
    assert done.returncode == 0, done.stdout + done.stderr


def _printed(python: str, code: str) -> str:
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]


def _environment(**changes: str) -> dict[str, str]:
    """Return the environment variables without those of the tests that run, and of their environment."""
    foreign = ("PYTEST_", "VIRTUAL_ENV", "PYTHONPATH", "UV_")
    return {name: value for name, value in os.environ.items() if not name.startswith(foreign)} | changes
