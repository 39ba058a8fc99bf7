"""Where a backup of a store goes, and what makes it."""

from __future__ import annotations

import time
from pathlib import Path
from shlex import quote

from monitor.service.errors import StoreError
from monitor.service.settings import ServiceSettings, hide_password
from monitor.service.storage.opening import file_of
from monitor.service.storage.sqlite_file.backup import Backup, back_up_as
from monitor.service.storage.tables.schema import schema_version


def back_up_to(url: str, to: Path) -> Backup:
    """Copy the store at `url` to the file `to`, or into that directory.

    Raises:
        StoreError: it cannot be copied, or it is in a database server, whose own program does that.
    """
    path = file_of(ServiceSettings(store_url=url).store_url)
    target = to / time.strftime("sparsity-monitor-%Y%m%d-%H%M%S.db") if to.is_dir() else to
    if path is None:
        command = f"pg_dump --format=custom --file={quote(str(to))} {quote(hide_password(url))}"
        raise StoreError(
            "the store is in PostgreSQL, whose own program copies it, also while it is served; a schema of its own is "
            f"named with --schema. Run: {command}"
        )
    return back_up_as(path, target, schema_version.name)
