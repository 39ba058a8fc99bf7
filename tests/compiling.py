"""Of processes that need the same loops at the same time, one compiles them, and the others load what it has kept."""

from __future__ import annotations

import os
import tempfile
from functools import wraps
from pathlib import Path
from typing import Any

from filelock import FileLock

_LOCK = FileLock(Path(tempfile.gettempdir()) / f"sparsity-monitor-compiling-{os.getuid()}.lock")


def compile_one_at_a_time() -> None:
    """Have numba compile in one process after another: ranks of one training and tests side by side begin together."""
    try:
        from numba.core.dispatcher import Dispatcher
    except ImportError:
        return
    compile_or_load = Dispatcher.compile

    @wraps(compile_or_load)
    def alone(dispatcher: Dispatcher, signature: Any) -> Any:
        # It is held again for each function that this one calls.
        with _LOCK:
            return compile_or_load(dispatcher, signature)

    Dispatcher.compile = alone
