"""The forms in which curves are exported, as the command line names them."""

from __future__ import annotations

from enum import StrEnum


class Format(StrEnum):
    """How a file is written."""

    CSV = "csv"
    OPENMETRICS = "openmetrics"
    PARQUET = "parquet"
