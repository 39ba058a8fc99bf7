"""The version of this package, for those inside it that say it. The build reads it from here."""

from __future__ import annotations

__version__ = "0.1.0"
