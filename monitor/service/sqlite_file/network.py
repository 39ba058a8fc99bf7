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
    """Say so where the store at `path` is on a network file system. Systems that do not tell are taken at their word.

    SQLite keeps the index of its log in memory that processes of one machine share (sqlite.org/wal.html): a service on
    another machine would damage the store.
    """
    with suppress(OSError):
        if kind := network_file_system(Path(os.path.realpath(path)), _MOUNTS.read_text()):
            logger.warning(
                "the store %s is on a network file system (%s). SQLite cannot be relied on there: a power cut or a "
                "service on another machine may damage what was acknowledged. Keep the store on a local disk and its "
                "backups here, or keep it in PostgreSQL",
                path,
                kind,
            )


def network_file_system(path: Path, mounts: str) -> str | None:
    """Return the kind of the network file system that a path is on, None where it is none, or nobody knows.

    Args:
        path: absolute, without links.
        mounts: as in /proc/self/mounts: device, directory, kind, options, two numbers, one mount a line.

    >>> network_file_system(Path("/data/run/store.db"), "disk / ext4 rw 0 0\\nhost:/x /data nfs4 rw 0 0")
    'nfs4'
    """
    found, depth = "", -1
    for line in mounts.splitlines():
        _device, directory, kind, *_rest = line.split(" ")
        at = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), directory))
        # Of two on one directory, the later one hides the other.
        if path.is_relative_to(at) and len(at.parts) >= depth:
            found, depth = kind, len(at.parts)
    return found if found in _KINDS or found in _FUSE else None
