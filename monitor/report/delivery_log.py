"""How the delivery goes, in the log of the training: each problem once, and what is lost."""

from __future__ import annotations

import logging
from pathlib import Path

from monitor.report.shell import shown
from monitor.report.spool import SpooledAttempt

logger = logging.getLogger(__name__)


class DeliveryLog:
    """Logs what has changed about the delivery of one attempt since the last time.

    Args:
        directory: the spool's.
        target: gRPC address of the service, host:port, or None.
    """

    def __init__(self, directory: Path, target: str | None) -> None:
        self._directory = directory
        self._target = target
        self._logged_problem = ""
        self._logged_dropped = 0

    def update(self, attempt: SpooledAttempt) -> None:
        """Log what is new in the spool's entry of the attempt."""
        self._log_problem(attempt.problem)
        self._log_dropped(attempt.dropped)

    def _log_problem(self, problem: str) -> None:
        # Without details: gRPC reports another address of the same host at each try.
        kind = problem.partition(": ")[0]
        if kind == self._logged_problem:
            return
        self._logged_problem = kind
        if problem:
            logger.warning(
                "sparsity-monitor: %s. Training goes on; observations are kept in %s.", problem, shown(self._directory)
            )
        else:
            logger.info("sparsity-monitor: connected to %s", self._target)

    def _log_dropped(self, dropped: int) -> None:
        # At the first loss, and each time the number has doubled.
        if dropped >= max(1, 2 * self._logged_dropped):
            self._logged_dropped = dropped
            logger.warning(
                "sparsity-monitor: %d items of this run are lost so far: the spool in %s is full, its disk too slow, "
                "or the service refused them. Make the service reachable, or keep more with `spool_max_bytes`.",
                dropped,
                shown(self._directory),
            )
