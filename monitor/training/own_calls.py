"""Calls of the user's own, as of `served`, which are answered where a training must not be disturbed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from monitor.errors import SparsityMonitorError

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")


class OwnCalls:
    """Answers them; errors stay away from the training, unless `strict`.

    Args:
        strict: whether errors are raised.
        says: whether this process says what the caller has to change; it does so once.
    """

    def __init__(self, *, strict: bool, says: bool = True) -> None:
        self._strict = strict
        self._says = says

    def answer(self, call: Callable[[], Answer | None]) -> Answer | None:
        """Return what `call` returns; None where it fails."""
        try:
            return call()
        except Exception as error:
            if self._strict:
                raise
            if not isinstance(error, SparsityMonitorError):
                logger.exception("an error in sparsity-monitor; training goes on")
            elif self._says:
                # The caller's to change, and no error of the monitor.
                self._says = False
                logger.warning("sparsity-monitor: %s Training goes on; this is said once.", error)
            return None
