"""What this package needs of a POSIX system: locks that the kernel gives back when their process dies."""

from __future__ import annotations

from monitor.errors import UnsupportedSystemError

try:
    import fcntl
except ModuleNotFoundError as error:
    raise UnsupportedSystemError(
        "reporting runs, and the service, need Linux or macOS, whose file locks Windows does not have: on Windows, run "
        "them in WSL. UpdateObserver measures without them."
    ) from error

__all__ = ["fcntl"]
