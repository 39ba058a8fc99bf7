"""This package under the name of its distribution, for where the name `monitor` is a user's own.

The wheel has this file beside the folder `monitor`. Where `monitor` is this package, both names stand for the same
modules. Where a user's `monitor.py` or `monitor/` comes first, the modules are loaded under this name instead, and what
they import from `monitor` they get from here: by an `__import__` of their own, which no other module sees.
"""

import builtins
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...


_SHORT, _LONG = "monitor", "sparsity_monitor"


class _SameModules(MetaPathFinder, Loader):
    """Gives for each name under the long one the module that has the short one."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname.startswith(f"{_LONG}.") else None

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        sys.modules[module.__name__] = import_module(_SHORT + module.__name__.removeprefix(_LONG))


class _OwnModules(MetaPathFinder):
    """Loads the modules under the long name."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if fullname.startswith(f"{_LONG}.") else None
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _OwnLoader(fullname, spec.loader.path)
        return spec


class _OwnLoader(SourceFileLoader):
    """Lets a module import ours under the long name."""

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__builtins__"] = {**vars(builtins), "__import__": _import}
        super().exec_module(module)


def _import(
    name: str,
    globals_: Mapping[str, object] | None = None,
    locals_: Mapping[str, object] | None = None,
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> ModuleType:
    if level == 0 and name.partition(".")[0] == _SHORT:
        name = _LONG + name.removeprefix(_SHORT)
    return builtins.__import__(name, globals_, locals_, fromlist, level)


def _own_folder() -> Path:
    """Return where the modules are: beside this file, or where an editable install has them."""
    for path in (str(Path(__file__).parent), *sys.path):
        spec = PathFinder.find_spec(_SHORT, [path])
        folders = list(spec.submodule_search_locations or ()) if spec is not None else []
        if folders and PathFinder.find_spec(f"{_SHORT}.wire", folders):
            return Path(folders[0]).resolve()
    raise ModuleNotFoundError("the modules of sparsity-monitor are not there: install it again", name=_SHORT)


def _has_short_name(folder: Path) -> bool:
    try:
        spec = find_spec(_SHORT)
    except ValueError:
        # A module that was put into sys.modules by hand.
        return False
    return spec is not None and folder in (Path(each).resolve() for each in spec.submodule_search_locations or ())


def _take_the_place_of_this_module() -> None:
    folder = _own_folder()
    if _has_short_name(folder):
        sys.meta_path.insert(0, _SameModules())
        sys.modules[_LONG] = import_module(_SHORT)
        return
    file = folder / "__init__.py"
    loader = _OwnLoader(_LONG, str(file))
    spec = spec_from_file_location(_LONG, file, loader=loader, submodule_search_locations=[str(folder)])
    assert spec is not None
    sys.meta_path.insert(0, _OwnModules())
    sys.modules[_LONG] = package = module_from_spec(spec)
    loader.exec_module(package)


if __name__ == _LONG:
    _take_the_place_of_this_module()
