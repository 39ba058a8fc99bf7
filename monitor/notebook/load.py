"""`monitor.load_run`: from an address or a directory to a run."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path
from urllib.parse import unquote

from monitor.errors import ConfigurationError, shown
from monitor.notebook.frames import pandas
from monitor.notebook.from_directory import DirectorySource
from monitor.notebook.from_service import ServiceSource
from monitor.notebook.run import LoadedRun

_URL = re.compile(r"[a-z]+://", re.IGNORECASE)
# The address that a browser shows while it shows a run.
_PAGE = re.compile(r"(.*)/runs/([^/]+)/?")


def load_run(source: str | os.PathLike[str], run: str | None = None) -> LoadedRun:
    """Load a run for a notebook: its observations, groups, logs and reference masks as pandas frames, and its curves.

    Args:
        source: the output directory of a training, which may still go on; or the address of a service for browsers,
            such as "http://127.0.0.1:8765", or of a run's page there. "#" and a run may follow either:
            "http://127.0.0.1:8765#grpo-1".
        run: id or name of the run, where there are several.

    Warns:
        UserWarning: something is missing from its numbers; what, is in `described.remarks`.

    Raises:
        MissingLibraryError: there is no pandas.
        ConfigurationError: it is not clear which run is meant; the message lists them.
        SpoolError: the directory has no spool of a run, or it cannot be read.
        ReportingError: the service cannot be reached, or does not answer.
    """
    loaded = opened(source, run)
    for remark in loaded.described.remarks:
        warnings.warn(remark, UserWarning, stacklevel=2)
    return loaded


def opened(source: str | os.PathLike[str], run: str | None = None) -> LoadedRun:
    """Do the same, without a warning."""
    pandas()
    where, named = _split(os.fspath(source))
    if run is not None and named is not None and run != named:
        raise ConfigurationError(f"the run is {shown(named)} in {shown(source)}, and {shown(run)} beside it; give one.")
    wanted = named if run is None else run
    if _URL.match(where):
        return LoadedRun(ServiceSource(where, wanted))
    return LoadedRun(DirectorySource(Path(where), wanted))


def _split(source: str) -> tuple[str, str | None]:
    """Return where the run is, and which it is."""
    if _URL.match(source):
        where, _, run = source.partition("#")
        page = _PAGE.fullmatch(where)
        return (page[1], run or unquote(page[2])) if page else (where, run or None)
    # A directory may have the character in its name.
    where, mark, run = source.rpartition("#")
    return (where, run or None) if mark and not Path(source).exists() else (source, None)
