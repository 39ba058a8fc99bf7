"""Which Python an environment is made with."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

_NEWEST_MINOR = 20
_VERSION = "import json, sys; print(json.dumps(sys.version_info[:2]))"


def at_least(major: int, minor: int) -> str | None:
    """Return a Python of this version or newer: the one that runs, or one on the PATH or of pyenv; None without one."""
    candidates = chain([sys.executable], _on_path(major, minor), _of_pyenv())
    return next((each for each in candidates if (version := _version(each)) and version >= (major, minor)), None)


def _on_path(major: int, minor: int) -> Iterator[str]:
    names = [f"python{major}.{newer}" for newer in range(_NEWEST_MINOR, minor - 1, -1)]
    return (found for name in [*names, "python3"] if (found := shutil.which(name)))


def _of_pyenv() -> Iterator[str]:
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    return (str(found) for found in sorted(root.glob("versions/*/bin/python")))


def _version(python: str) -> tuple[int, ...] | None:
    """Return its version; None for what cannot be run, such as a stand-in for one that is not switched on."""
    done = subprocess.run([python, "-c", _VERSION], capture_output=True, text=True, check=False)
    return tuple(json.loads(done.stdout)) if done.returncode == 0 else None
