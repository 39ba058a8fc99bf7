"""Environments that the wheel is installed into, as users do it."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.installing import ROOT, clean_environment, uv


def build_wheel(directory: Path) -> Path:
    """Build the wheel of this checkout."""
    uv("build", "--wheel", "--out-dir", directory, ROOT)
    (wheel,) = directory.glob("*.whl")
    return wheel


class Environment:
    """A virtual environment that holds nothing yet."""

    def __init__(self, directory: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", directory], check=True)
        self.directory = directory
        self.python = directory / "bin" / "python"
        self.command = str(directory / "bin" / "sparsity-monitor")
        (self._packages,) = directory.glob("lib/python*/site-packages")

    def lend(self, *names: str) -> None:
        """Make distributions of the environment that runs the tests, and all that they require, importable here too."""
        lent = self.directory / "lent"
        lent.mkdir()
        for each in _with_requirements(names):
            for top in {file.parts[0] for file in each.files or () if file.parts[0] not in ("..", "__pycache__")}:
                if not (lent / top).exists():
                    (lent / top).symlink_to(each.locate_file(top))
        (self._packages / "lent.pth").write_text(str(lent))

    def install(self, wheel: Path, extras: str = "") -> set[str]:
        """Install the wheel, and return the names of what that brought."""
        constraints = ROOT / "examples" / "constraints.txt"
        uv("pip", "install", "--python", self.python, "--constraint", constraints, f"{wheel}{extras}")
        return {canonicalize_name(found.name) for found in Distribution.discover(path=[str(self._packages)])}

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a command in the environment's directory, where there is no checkout to import from."""
        return subprocess.run(
            command,
            cwd=self.directory,
            env=clean_environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )


def _with_requirements(names: tuple[str, ...]) -> list[Distribution]:
    found: dict[str, Distribution] = {}
    waiting = [Requirement(name) for name in names]
    while waiting:
        wanted = waiting.pop()
        if canonicalize_name(wanted.name) in found:
            continue
        found[canonicalize_name(wanted.name)] = of_name = distribution(wanted.name)
        for text in of_name.requires or ():
            required = Requirement(text)
            environment = default_environment() | {"extra": ""}
            if required.marker is None or required.marker.evaluate(environment):
                waiting.append(required)
    return list(found.values())
