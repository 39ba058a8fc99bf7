"""What browsers load beside the pages and may keep for ever: the scripts, each below an address with its version.

plotly.js is the one inside the installed package `plotly`, which is found but not imported: importing it takes long.
"""

from __future__ import annotations

import gzip
import hashlib
import threading
from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

_MODULES = (
    "address.js",
    "charts.js",
    "compare.js",
    "gaps.js",
    "layers.js",
    "live.js",
    "over.js",
    "overview.js",
    "parts.js",
    "run.js",
    "table.js",
)
PLOTLY = "plotly.min.js"


class Assets:
    """The scripts of the pages by name.

    Attributes:
        version: another one wherever a script is.
        files: name → where it is.
        tag: their ETag, of each below its own address.
    """

    def __init__(self) -> None:
        here = Path(__file__).parent
        self.files: Mapping[str, Path] = {name: here / name for name in _MODULES} | {PLOTLY: _plotly()}
        own = b"".join((here / name).read_bytes() for name in _MODULES)
        self.version = hashlib.sha256(own + version("plotly").encode()).hexdigest()[:16]
        # Weak: the same script, compressed or not.
        self.tag = f'W/"{self.version}"'
        self._compressed: dict[str, bytes] = {}
        self._one_at_a_time = threading.Lock()

    def compressed(self, name: str) -> bytes:
        """Return a script in gzip. It is compressed when it is first asked for, which takes plotly.js a second."""
        with self._one_at_a_time:
            if name not in self._compressed:
                self._compressed[name] = gzip.compress(self.files[name].read_bytes(), mtime=0)
            return self._compressed[name]


def _plotly() -> Path:
    spec = find_spec("plotly")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("the pages need plotly", name="plotly")
    return Path(spec.origin).with_name("package_data") / PLOTLY
