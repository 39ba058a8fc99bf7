"""Environments with the lowest and the newest versions, made once and kept in the environment that runs the tests."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

from filelock import FileLock

from tests.installing import ROOT, clean_environment, uv

_HERE = Path(__file__).parent
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
            env=clean_environment(NUMBA_CACHE_DIR=str(self.python.parents[1] / "numba")),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.splitlines()[-1]


def _make(directory: Path, base: str, requirements: Path, lent: list[Path]) -> None:
    uv("venv", "--relocatable", "--python", base, directory)
    python = directory / "bin" / "python"
    uv("pip", "install", "--python", python, "--no-deps", "--only-binary", ":all:", "--requirements", requirements)
    uv("pip", "install", "--python", python, "--no-deps", "--editable", ROOT)
    (packages,) = directory.glob("lib/python*/site-packages")
    for path in lent:
        (packages / path.name).symlink_to(path)


def _printed(python: str, code: str) -> str:
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]
