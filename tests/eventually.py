"""Waits for what another thread or process does, on a condition instead of a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


def eventually(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until the condition holds."""
    began = time.monotonic()
    while not condition():
        waited = time.monotonic() - began
        assert waited < seconds, "it never came to pass"
        # The longer it takes, the less often: who is waited for needs the processor, too.
        threading.Event().wait(min(max(0.02, waited / 10), 0.25))
