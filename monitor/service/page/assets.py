"""What browsers load beside the pages and may keep for ever: the scripts, each below an address with its version.

plotly.js is the one inside the installed package `plotly`, which is found but not imported: importing it takes long.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

_MODULES = ("address.js", "charts.js", "layers.js", "live.js", "run.js")
PLOTLY = "plotly.min.js"


class Assets:
    """The scripts of the pages by name.

    Attributes:
        version: another one wherever a script is.
        files: name → where it is.
    """

    def __init__(self) -> None:
        here = Path(__file__).parent
        self.files: Mapping[str, Path] = {name: here / name for name in _MODULES} | {PLOTLY: _plotly()}
        own = b"".join((here / name).read_bytes() for name in _MODULES)
        self.version = hashlib.sha256(own + version("plotly").encode()).hexdigest()[:16]


def _plotly() -> Path:
    spec = find_spec("plotly")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("the pages need plotly", name="plotly")
    return Path(spec.origin).with_name("package_data") / PLOTLY
