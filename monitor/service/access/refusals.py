"""Failed attempts to get in: a line in the log for each, up to a bound for each caller and minute.

Tokens cannot be guessed by trying. The bound keeps a caller with a wrong one, which tries for ever, from filling the
log and from having the store read for each try. It keeps nobody out who has a good one.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from monitor.service.errors import shortened

logger = logging.getLogger("monitor.service.access")

PER_MINUTE = 10
SECONDS = 60.0
_MOST_CALLERS = 1000


@dataclass
class _Caller:
    since: float
    failed: int = 0


class Refusals:
    """What was refused lately, by caller: a host, without a port, which is another one for each connection."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._callers: OrderedDict[str, _Caller] = OrderedDict()

    def are_many(self, host: str) -> bool:
        """Return whether a host has failed so often that its failures are not looked into any more."""
        caller = self._callers.get(host)
        return caller is not None and caller.failed >= PER_MINUTE and self._clock() - caller.since < SECONDS

    def note(self, host: str, what: str, why: str) -> None:
        """Count a failure, and log it unless there were many."""
        now = self._clock()
        caller = self._callers.get(host)
        if caller is None or now - caller.since >= SECONDS:
            caller = self._callers[host] = _Caller(now)
            self._callers.move_to_end(host)
            if len(self._callers) > _MOST_CALLERS:
                self._callers.popitem(last=False)
        caller.failed += 1
        if caller.failed <= PER_MINUTE:
            logger.warning("refused: %s to %s: %s", host, shortened(what), why)
        if caller.failed == PER_MINUTE:
            logger.warning("refused: %s failed %d times; for a minute no more is logged of it", host, PER_MINUTE)
