"""The architecture: which room of the package may import which. The tables below are all of it.

    callback, loop, training → report → observe        service → wire        grafana → service.quantities
    cli → commands, report, service, grafana, analysis, notebook        analysis → observe
    subnetwork → training, observe        notebook → report, analysis.html, the service's arithmetic

Imports within functions count as those at the top of a file do; those under `if TYPE_CHECKING:` count as types.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent

# A file or folder of monitor/ → what it may import besides itself.
ROOMS = {
    "version": "",
    "errors": "",
    "service_url": "errors",
    "sparsity_monitor": "",
    "terminal": "",
    "posix": "errors",
    "proxies": "",
    "percent": "",
    "published": "",
    "thresholds": "",
    "served_metrics": "",
    "environment": "",
    "wire": "environment errors proxies terminal",
    "limits": "errors environment wire",
    "observe": "errors",
    "verdict": "errors observe",
    "report": "errors limits posix terminal version wire observe verdict",
    "training": "environment errors limits served_metrics percent terminal verdict observe report",
    "callback": "errors verdict observe report training",
    "loop": "errors verdict observe report training",
    "service": "errors limits served_metrics percent posix published service_url terminal thresholds version wire",
    "grafana": "errors proxies published served_metrics service_url terminal thresholds service.quantities.families",
    "analysis": "errors limits percent posix terminal verdict version observe",
    # Of the service what adds up and names, so that there is one arithmetic; none of it needs what the service needs.
    "notebook": "errors percent proxies service_url terminal wire observe report analysis.html analysis.in_words "
    "analysis.outputs analysis.printed analysis.progress service.quantities published",
    "subnetwork": "errors percent observe training",
    "commands": "errors percent service_url terminal version wire report service notebook.interface notebook.whole",
    "cli": "errors terminal version wire report service grafana analysis notebook commands",
    "__init__": "version errors verdict observe callback loop notebook subnetwork",
}

# Of these it may import types only: the uploader and the service run where torch is not.
TYPES_ONLY = {"report": "observe verdict"}

# A file or folder of monitor/observe/ → what it may import there besides itself. From the bits up to the face.
OBSERVE = {
    "chunk_sizes": "",
    "user_warning": "",
    "arguments": "",
    "criterion": "",
    "streams": "",
    "stopwatch": "",
    "settings": "",
    "bits": "chunk_sizes",
    "borrowed": "",
    "kernels": "chunk_sizes bits borrowed criterion",
    "meeting": "",
    "ranks": "kernels meeting",
    "weights": "user_warning bits ranks",
    "served": "chunk_sizes criterion settings weights",
    "overlap": "",
    "observation": "overlap weights",
    "base": "chunk_sizes borrowed criterion kernels ranks weights",
    "masks": "arguments chunk_sizes user_warning criterion bits ranks weights overlap base",
    "tally": "kernels weights observation",
    "state": "kernels weights base masks",
    "measurement": "borrowed kernels weights state",
    "comparison": "kernels ranks weights observation tally state measurement",
    "changes": "user_warning weights base",
    "followed": "streams kernels weights base tally state measurement changes",
    "masks_of_model": "criterion kernels masks followed",
    "passes": "streams stopwatch kernels weights observation followed",
    "observer": "arguments user_warning criterion streams stopwatch kernels ranks weights served observation base "
    "masks masks_of_model state settings comparison changes followed passes",
}

# The same of monitor/report/. `reporter` is the face of what runs in the training process, `push` of what uses gRPC.
REPORT = {
    "target": "",
    "messages": "",
    "spool": "",
    "processes": "messages.ending",
    "log": "spool.attempt",
    "writer": "messages.ending spool processes log",
    "uploader": "spool processes log",
    "reporter": "target messages spool processes log writer",
    "push": "target spool processes log uploader",
}

# The same of monitor/service/. From what needs no service, along the way of an observation, to what runs it all.
SERVICE = {
    "quantities": "",
    "errors": "",
    "times": "",
    "settings": "",
    "background": "",
    "handlers": "",
    "access": "errors times settings background handlers",
    "storage": "quantities errors times settings access.table access.tokens",
    "live": "quantities settings storage.stored",
    "metrics": "quantities settings live",
    "recording": "quantities errors times settings access.tokens storage live metrics.instruments",
    "ingest": "quantities errors settings background handlers storage.stored live metrics.instruments recording",
    "web": "quantities errors times settings access storage.stored storage.queries.curves live metrics.exposition "
    "recording",
    "care": "quantities errors times settings background access storage live metrics.instruments recording",
    "server": "errors settings access storage metrics recording ingest web care",
}

# The same of monitor/service/storage/. `store` is its face.
STORAGE = {
    "tables": "",
    "stored": "tables",
    "queries": "tables stored",
    "remedies": "",
    "sqlite_file": "remedies",
    "lock": "",
    "opening": "tables remedies sqlite_file lock",
    "identity": "opening",
    "waiting": "lock opening",
    "agreement": "",
    "store": "tables stored queries remedies sqlite_file opening agreement",
}

# The same of monitor/service/web/. `app` is its face.
WEB = {
    "negotiation": "",
    "sessions": "",
    "requests": "negotiation sessions",
    "standing_by": "requests",
    "api": "",
    "views": "api",
    "interface": "negotiation api views",
    "page": "api views interface",
    "login": "sessions requests page",
    "app": "negotiation sessions requests standing_by api views interface page login",
}

# The same of monitor/grafana/.
GRAFANA = {
    "addresses": "",
    "promql": "",
    "alerts": "addresses promql",
    "dashboards": "addresses promql alerts",
    "rules": "addresses promql alerts dashboards",
    "files": "addresses alerts dashboards rules",
    "apply": "addresses alerts dashboards rules",
    "commands": "alerts files apply",
}

TABLES = {
    "": ROOMS,
    "observe": OBSERVE,
    "report": REPORT,
    "service": SERVICE,
    "service.storage": STORAGE,
    "service.web": WEB,
    "grafana": GRAFANA,
}

# A library → who may import it.
LIBRARIES = {
    "torch": "callback loop training observe analysis subnetwork",
    "transformers": "callback training analysis subnetwork",
    "trl": "callback training",
    "accelerate": "callback training",
    "datasets": "callback training",
    "deepspeed": "callback training",
    "peft": "observe.weights.adapters analysis.adapter",
    "matplotlib": "analysis notebook.curves notebook.run",
    "pandas": "notebook.frames notebook.run",
    "zstandard": "analysis.delta",
    "numba": "observe.kernels",
    "triton": "observe.kernels",
    "sqlite3": "report.spool.file report.spool.notes service.storage.sqlite_file",
    "grpc": "wire report.uploader service.handlers service.access service.ingest service.server commands cli",
    "sqlalchemy": "service.settings service.access.table service.storage service.care",
    "fastapi": "service.web service.server",
    "grafana_api": "grafana.apply.client",
    "grafana_foundation_sdk": "grafana.dashboards",
}

# A library → from where no chain of imports may lead to it, besides those of types.
NEVER_LOADED = {
    # What runs in the training process: a worker that is forked after gRPC has started its threads can deadlock.
    "grpc": "callback loop training subnetwork report.reporter",
    # What runs where torch is not.
    "torch": "report.uploader report.push service",
    # What reads of a service, and shows it, where none can run.
    "sqlalchemy": "grafana notebook",
    "fastapi": "grafana notebook",
}


class Import(NamedTuple):
    """One import of a module, both modules in full and with dots.

    Attributes:
        where: file:line.
        types_only: it stands under `if TYPE_CHECKING:`.
    """

    where: str
    importer: str
    imported: str
    types_only: bool


def imports_of(root: Path) -> list[Import]:
    """Every import in the package `monitor` below `root`."""
    files = {_module(path.relative_to(root)): path for path in sorted((root / "monitor").rglob("*.py"))}
    found = [
        Import(f"{path.relative_to(root)}:{line}", module, imported, types_only)
        for module, path in files.items()
        for line, imported, types_only in _imports(ast.parse(path.read_text()), files, types_only=False)
    ]
    # Several names of one module are one import.
    return list(dict.fromkeys(found))


def _module(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(node: ast.AST, modules: Mapping[str, Path], *, types_only: bool) -> Iterator[tuple[int, str, bool]]:
    if isinstance(node, ast.Import):
        yield from ((node.lineno, name.name, types_only) for name in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"line {node.lineno}: a relative import; import absolutely, as everywhere else"
        for name in node.names:
            # A name may be a module of the package that is named.
            module = f"{node.module}.{name.name}"
            yield node.lineno, module if module in modules else str(node.module), types_only
    elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        for child in node.body:
            yield from _imports(child, modules, types_only=True)
        for child in node.orelse:
            yield from _imports(child, modules, types_only=types_only)
    else:
        for child in ast.iter_child_nodes(node):
            yield from _imports(child, modules, types_only=types_only)


def _is_in(module: str, rooms: str) -> bool:
    """Whether a module, given without `monitor.`, is one of these files or lies in one of these folders."""
    return any(module == room or module.startswith(f"{room}.") for room in rooms.split())


def wrong_arrow(each: Import) -> str | None:
    """What is wrong about an import of one of our modules; None if nothing is."""
    importer, imported = (name.removeprefix("monitor").lstrip(".") for name in (each.importer, each.imported))
    folder = ""
    # Down to where the ways of the two part.
    while (room := importer.split(".")[0] or "__init__") == imported.split(".")[0]:
        folder = f"{folder}.{room}".lstrip(".")
        if folder not in TABLES:
            return None
        importer, imported = (name.partition(".")[2] for name in (importer, imported))
    table = TABLES[folder]
    above = f"{folder.replace('.', '/')}/" if folder else ""
    if room not in table:
        return f"{each.where}: {above}{room} is in no table. Say there what it may import, and who may import it"
    if not _is_in(imported, table[room]):
        allowed = ", ".join(table[room].split()) or "nothing"
        return f"{each.where}: the arrow {above}{room} → {above}{imported} is wrong: {room} may import {allowed}"
    if not folder and _is_in(imported, TYPES_ONLY.get(room, "")) and not each.types_only:
        return f"{each.where}: {room} → {imported} is for types only. Import it under `if TYPE_CHECKING:`"
    return None


def imports_the_face(each: Import) -> str | None:
    """What is wrong about an import of `monitor` itself; None if it is another one."""
    if each.imported != "monitor":
        return None
    return f"{each.where}: imports monitor/__init__.py, which is for users. Import from the module that has the name"


def wrong_library(each: Import) -> str | None:
    """What is wrong about an import of a library; None if nothing is."""
    library = each.imported.split(".")[0]
    importer = each.importer.removeprefix("monitor").lstrip(".")
    if library not in LIBRARIES or _is_in(importer, LIBRARIES[library]):
        return None
    return f"{each.where}: {importer or 'monitor'} imports {library}; only {LIBRARIES[library].replace(' ', ', ')} may"


def chains_to(library: str, rooms: str, imports: Iterable[Import]) -> list[str]:
    """The chains of imports that lead from files in these rooms to a library: to each file on the way, one."""
    imported_by: defaultdict[str, list[str]] = defaultdict(list)
    for each in imports:
        if not each.types_only:
            imported_by[each.importer].append(each.imported)
    chains = deque([module] for module in sorted(imported_by) if _is_in(module.removeprefix("monitor."), rooms))
    met, found = {module for (module,) in chains}, []
    while chains:
        chain = chains.popleft()
        for imported in imported_by[chain[-1]]:
            if imported.split(".")[0] == library:
                found.append(" → ".join([*chain, imported]))
            for module in _with_folders(imported):
                if module not in met:
                    met.add(module)
                    chains.append([*chain, module])
    return found


def _with_folders(module: str) -> Iterator[str]:
    """A module, and what is imported with it: the `__init__.py` of each folder above it."""
    while module:
        yield module
        module = module.rpartition(".")[0]


def wrong_in(root: Path) -> dict[Import, str]:
    """The imports below `root` that are wrong, with what is wrong about each."""
    found = {}
    for each in imports_of(root):
        ours = each.imported.split(".")[0] == "monitor"
        found[each] = imports_the_face(each) or (wrong_arrow(each) if ours else wrong_library(each))
    return {each: message for each, message in found.items() if message is not None}


def test_imports_go_along_the_arrows_of_the_house() -> None:
    assert not (wrong := wrong_in(ROOT)), "\n".join(["", *wrong.values()])


@pytest.mark.parametrize("folder", TABLES)
def test_no_arrow_runs_back_up(folder: str) -> None:
    arrows = {room: {name.split(".")[0] for name in allowed.split()} for room, allowed in TABLES[folder].items()}
    # Raises CycleError, which names the circle.
    TopologicalSorter(arrows).prepare()


@pytest.mark.parametrize("library", NEVER_LOADED)
def test_what_is_never_loaded_is_so_on_no_way(library: str) -> None:
    assert not (chains := chains_to(library, NEVER_LOADED[library], imports_of(ROOT))), "\n".join(["", *chains])


def test_a_chain_to_a_library_is_named_with_all_that_is_on_its_way(tmp_path: Path) -> None:
    sources = {
        "callback.py": "from monitor.report import reporter",
        "report/reporter.py": "def f():\n    import monitor.wire.channel",
        "report/types.py": "if TYPE_CHECKING:\n    import grpc",
        "wire/__init__.py": "import monitor.wire.services",
        "wire/services.py": "import grpc.aio",
        "wire/channel.py": "import grpc",
    }
    for name, source in sources.items():
        (tmp_path / "monitor" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "monitor" / name).write_text(source)
    beginning = "monitor.report.reporter → monitor.wire"
    assert chains_to("grpc", "report", imports_of(tmp_path)) == [
        f"{beginning}.channel → grpc",
        f"{beginning} → monitor.wire.services → grpc.aio",
    ]


@pytest.mark.parametrize(
    ("file", "source", "message"),
    [
        ("service/server.py", "import monitor.observe.bits", r"er\.py:1: the arrow service → observe\.bits is wrong"),
        ("observe/bits.py", "from monitor.observe import kernels", r"observe/bits → observe/kernels.*may import chunk"),
        ("grafana/promql/metric.py", "def f():\n    from monitor.service import live", r"metric\.py:2: .*service\.q"),
        ("report/writer/home.py", "import monitor.report.uploader.tries", r"report/writer → report/uploader\.tries is"),
        ("service/live/runs.py", "import monitor.service.web.api", r"service/live → service/web\.api is wrong"),
        ("service/web/page/__init__.py", "import monitor.service.web.app", r"service/web/page → service/web/app is"),
        ("service/recording/items.py", "import grpc", r"recording\.items imports grpc; only .*service\.ing"),
        ("report/uploader/tries.py", "from monitor.observe.observer import UpdateObserver", "for types only"),
        ("observe/state.py", "from monitor.errors import x\nfrom monitor import UpdateMask", r":2: .*for users"),
        ("training/start.py", "import monitor", "for users"),
        ("observe/observer.py", "from transformers import Trainer", "only callback, training, analysis, subnet"),
        ("service/web/page/__init__.py", "if TYPE_CHECKING:\n    import torch", r"service\.web\.page imports torch"),
        ("attic.py", "import monitor.errors", "attic is in no table"),
    ],
)
def test_a_wrong_import_is_named_with_its_line_and_its_rule(
    file: str, source: str, message: str, tmp_path: Path
) -> None:
    for name in ("observe/kernels/__init__.py", "service/live/runs.py", file):
        (tmp_path / "monitor" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "monitor" / name).touch()
    (tmp_path / "monitor" / file).write_text(source)
    (found,) = wrong_in(tmp_path).values()
    assert re.search(message, found), found
