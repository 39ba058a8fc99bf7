"""Columns → pandas frames: counts as integers that may be missing, ratios as floats, times in UTC."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from monitor.errors import MissingLibraryError
from monitor.notebook.described import Columns
from monitor.service.quantities.fields import FIELDS

if TYPE_CHECKING:
    import pandas as pd

_WHOLE = {"weights", "bytes", "steps"}
_INTEGERS = {"step", "attempt", "weights", "intersection", *(n for n, field in FIELDS.items() if field.unit in _WHOLE)}
_TEXTS = {"layer", "module", "name"}


def frame(columns: Columns) -> pd.DataFrame:
    """Return the columns as a frame: Int64 for counts, float64 for ratios and measures, NA or NaN for not measured.

    Raises:
        MissingLibraryError: there is no pandas.
    """
    return pandas().DataFrame({name: _series(name, values) for name, values in columns.items()})


def pandas() -> Any:
    """Return the library.

    Raises:
        MissingLibraryError: it is not installed.
    """
    try:
        import pandas as library
    except ModuleNotFoundError as error:
        raise MissingLibraryError(
            f'a run as frames needs {error.name}, which is not installed: pip install "sparsity-monitor[analysis]"',
            name=error.name,
        ) from None
    return library


def _series(name: str, values: Sequence[object]) -> Any:
    pd = pandas()
    if name in _TEXTS:
        return pd.Series(list(values), dtype=object)
    if name == "time":
        return pd.to_datetime(pd.Series(list(values), dtype="float64"), unit="s", utc=True)
    if name in _INTEGERS:
        whole: list[Any] = list(values)
        return pd.array([None if value is None else int(value) for value in whole], dtype="Int64")
    return pd.Series(list(values), dtype="float64")
