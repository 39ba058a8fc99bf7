"""What to do about a store that fails, by what the database or the system says."""

from __future__ import annotations

from pathlib import Path

from monitor.service.settings import DEFAULT_STORE

_REMEDIES = (
    (("is full", "no space left"), "its disk is full: make room there"),
    (
        ("readonly", "read-only"),
        "it can only be read: let this user write to the file and to its directory, or mount its file system for "
        "writing; a standby of a database server takes nothing",
    ),
    (("is locked",), "another program writes to it or copies it: let that end, or end it"),
    (
        ("i/o error", "input/output error"),
        "its disk or file system fails, a quota is used up, or the service may write no larger file (ulimit -f): "
        "look at the system's log, and mend that",
    ),
    (
        ("no such table", "no such column", "does not exist"),
        "another program changed its tables: put a backup in its place while no service runs, or give another place",
    ),
    (("malformed", "corrupt"), "it is damaged: put a backup in its place while no service runs, or give another place"),
)


def remedy(reason: str, otherwise: str) -> str:
    """Return what to do where the reason tells, `otherwise` where it does not.

    >>> remedy("database or disk is full", "look")
    'its disk is full: make room there'
    """
    said = reason.lower()
    return next((what for signs, what in _REMEDIES if any(sign in said for sign in signs)), otherwise)


def no_store_at(path: Path) -> str:
    """Return what to say of a file that is not there.

    >>> no_store_at(Path("/data/store.db")).partition("; ")[0]
    'there is no store at /data/store.db'
    """
    if path == Path.cwd() / DEFAULT_STORE:
        return f"there is no store at {path}; say with --store-url where it is"
    return (
        f"there is no store at {path}; correct the path that was given, where sqlite:///FILE begins in the current "
        "directory and sqlite:////FILE at the root, or start the service on it, which makes one"
    )
