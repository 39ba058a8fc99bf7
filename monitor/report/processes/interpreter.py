"""Starts Python for a process of our own, so that it finds this package and no neighbour of the training script.

Not by PYTHONPATH, which comes before the standard library and the installed packages: a user's own `queue.py` or
`grpc.py` must not take their place. Nor by its name alone, which a user's `monitor.py` has, too.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

_ROOT = str(Path(__file__).parents[3])

_START = """
import json, runpy, sys
from importlib.machinery import PathFinder

root, paths, module = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
del sys.argv[1:4]
sys.path += [path for path in paths if path not in sys.path]

class OwnPackage:
    @staticmethod
    def find_spec(name, path=None, target=None):
        return PathFinder.find_spec(name, [root]) if name == "monitor" else None

sys.meta_path.insert(0, OwnPackage)
for name in [name for name in sys.modules if name.partition(".")[0] == "monitor"]:
    del sys.modules[name]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def command(module: str) -> list[str]:
    """Return what runs a module of this package; the module's arguments come after it.

    Libraries are found where Python finds them by itself, and after that, where this process does.
    """
    # -P: without the working directory.
    return [sys.executable, "-P", "-c", _START, _ROOT, json.dumps(_search_path()), module]


def environment() -> dict[str, str]:
    """Return the environment variables that go with it."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def _search_path() -> list[str]:
    """Return where this process looks for modules, the directories of the user's own scripts last."""
    try:
        here = os.getcwd()
    except FileNotFoundError:
        here = None
    main_file = getattr(sys.modules.get("__main__"), "__file__", None)
    own = {here, main_file and os.path.dirname(main_file)}
    paths = [path if os.path.isabs(path) or here is None else os.path.abspath(path) for path in sys.path]
    return sorted(filter(os.path.isabs, paths), key=lambda path: path in own)
