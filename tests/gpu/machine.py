"""What the machine has: the card, its driver, the versions of what is used, and what is missing."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime

# What is imported → name of the package, and what wants it beside the kernel itself.
WANTED = {
    "torch": "torch",
    "triton": "triton",
    "numpy": "numpy",
    "numba": "numba",
    "pytest": "pytest",
    "hypothesis": "hypothesis",
    "xdist": "pytest-xdist",
    "transformers": "transformers",
    "accelerate": "accelerate",
    "peft": "peft",
    "pydantic": "pydantic",
    "google.protobuf": "protobuf",
    "grpc": "grpcio",
    "safetensors": "safetensors",
}

# In a process of its own: one that has looked at the GPU holds some of its memory.
_LOOK = """
import json, sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
versions, missing, card, why = {}, {}, "", ""
for module, package in json.loads(sys.argv[1]).items():
    try:
        if find_spec(module) is None:
            raise ModuleNotFoundError(f"no module named {module}")
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            # Importable, from a distribution of another name.
            versions[package] = "unknown"
    except Exception as error:
        missing[module] = str(error)
if "torch" in versions:
    import torch
    versions["torch"] = torch.__version__
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        card = (f"{card.name}, {card.total_memory / 2**30:.0f} GiB, {card.multi_processor_count} multiprocessors, "
                f"compute capability {card.major}.{card.minor}, 1 of {torch.cuda.device_count()}")
    else:
        why = f"torch {torch.__version__} sees no CUDA device"
print(json.dumps([versions, missing, card, why]))
"""


@dataclass(frozen=True)
class Machine:
    """What was found; `card` is empty where there is no GPU, and `why_none` says why.

    Attributes:
        versions: package → version.
        missing: module → why it cannot be imported.
    """

    versions: dict[str, str]
    missing: dict[str, str]
    card: str
    why_none: str

    def rows(self) -> list[tuple[str, str]]:
        """Return what a table of results starts with."""
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        rows = [
            ("date", datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")),
            ("card", self.card or "none"),
            ("driver", _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") or "unknown"),
            ("processor", f"{os.cpu_count()} cores, {platform.machine()}, {platform.platform()}"),
            ("versions", f"Python {platform.python_version()}, {versions}"),
            ("commit", _output("git", "describe", "--always", "--dirty") or "unknown"),
        ]
        if self.missing:
            rows.append(("missing", ", ".join(self.missing)))
        return rows


def look() -> Machine:
    """Look at what this Python can import and see."""
    command = [sys.executable, "-c", _LOOK, json.dumps(WANTED)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{sys.executable} cannot even look for a GPU:\n{result.stderr}")
    versions, missing, card, why_none = json.loads(result.stdout.splitlines()[-1])
    return Machine(versions, missing, card, why_none)


def _output(*command: str) -> str:
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip().replace("\n", ", ") if result.returncode == 0 else ""
