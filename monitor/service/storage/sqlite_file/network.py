"""Whether a store lies on a network file system, where SQLite's write-ahead log and its locks cannot be relied on."""

from __future__ import annotations

import logging
import os
import re
from contextlib import suppress
from pathlib import Path

logger = logging.getLogger(__name__)

_MOUNTS = Path("/proc/self/mounts")
_KINDS = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "ceph", "lustre", "gpfs", "beegfs", "glusterfs")
_FUSE = ("fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs", "fuse.rclone", "fuse.gcsfuse", "fuse.juicefs")


def warn_of_network(path: Path) -> None:
    """Say so where the store at `path` is on a network file system."""
    if kind := _kind_at(path):
        logger.warning(
            "the store %s is on a network file system (%s). It is kept without a write-ahead log there, which is "
            "slower, and SQLite relies on locks and writes that not all such systems keep: a power cut or a service on "
            "another machine may damage what was acknowledged. Keep the store on a local disk and its backups "
            "here, or keep it in PostgreSQL",
            path,
            kind,
        )


def journal_mode(path: Path) -> str:
    """Return how SQLite is to write the store at `path`: with a write-ahead log, and where that does not work without.

    SQLite keeps the index of its log in memory that processes of one machine share (sqlite.org/wal.html): one on
    another machine would damage the store.
    """
    return "DELETE" if _kind_at(path) else "WAL"


def _kind_at(path: Path) -> str | None:
    # Systems that do not tell are taken at their word.
    with suppress(OSError):
        return network_file_system(Path(os.path.realpath(path)), _MOUNTS.read_text(errors="surrogateescape"))
    return None


def network_file_system(path: Path, mounts: str) -> str | None:
    """Return the kind of the network file system that a path is on, None where it is none, or nobody knows.

    Args:
        path: absolute, without links.
        mounts: as in /proc/self/mounts: device, directory, kind, options, two numbers, one mount a line.

    >>> network_file_system(Path("/data/run/store.db"), "disk / ext4 rw 0 0\\nhost:/x /data nfs4 rw 0 0")
    'nfs4'
    """
    found, depth = "", -1
    # Not by splitlines: a directory may be called by what it takes for the end of a line.
    for line in filter(None, mounts.split("\n")):
        _device, directory, kind, *_rest = line.split(" ")
        at = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), directory))
        # Of two on one directory, the later one hides the other.
        if path.is_relative_to(at) and len(at.parts) >= depth:
            found, depth = kind, len(at.parts)
    return found if found in _KINDS or found in _FUSE else None
