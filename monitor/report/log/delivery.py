"""How the delivery goes, in the log of the training: each problem once, and what is lost, each with what to do."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from monitor.report.log.seldom import SELDOM_SECONDS
from monitor.report.log.shell import push_command, shown
from monitor.report.spool.attempt import SpooledAttempt

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
        self._logged_at: dict[str, float] = {}
        self._logged_dropped = 0
        self._logged_kinds = 0
        self._told_of: set[tuple[str, str]] = set()
        self._lost_here: Counter[str] = Counter()

    def in_directory(self, directory: Path) -> DeliveryLog:
        """Return one that goes on for the spool in another directory, with what was lost so far."""
        other = copy.copy(self)
        other._directory = directory
        return other

    def lose(self, reason: str, items: int = 1) -> None:
        """Count items that do not get into the spool, or are lost with it; the next update says so."""
        if items > 0:
            self._lost_here[reason] += items

    def update(self, attempt: SpooledAttempt, refusing: Mapping[str, str] | None = None) -> None:
        """Log what is new in the spool's entry of the attempt.

        Args:
            refusing: addresses of the target that take nothing, though others may, with the reason.
        """
        for address, reason in (refusing or {}).items():
            self._log_refusal(address, reason)
        self._log_problem(attempt)
        self._log_dropped(attempt)

    def _log_refusal(self, address: str, reason: str) -> None:
        """Once for each kind of reason: nobody watches an address that is not needed yet."""
        told = (address, _kind(reason))
        if told not in self._told_of:
            self._told_of.add(told)
            logger.warning(
                "sparsity-monitor: %s. Training goes on, and the other addresses of the target are tried; while that "
                "lasts, %s cannot take over from them.",
                reason.rstrip("."),
                address,
            )

    def _log_problem(self, attempt: SpooledAttempt) -> None:
        kind = _kind(attempt.problem)
        now = time.monotonic()
        # A service that comes and goes is not told of each time; where it stays as it is, that is told later.
        if kind == self._logged_problem or now - self._logged_at.get(kind, -math.inf) < SELDOM_SECONDS:
            return
        self._logged_problem, self._logged_at[kind] = kind, now
        if attempt.refused:
            logger.warning(
                "sparsity-monitor: %s. Training goes on, but none of it is shown there before that is changed; "
                "observations are kept in %s.",
                attempt.problem.rstrip("."),
                shown(self._directory),
            )
        elif attempt.problem:
            logger.warning(
                "sparsity-monitor: %s. Training goes on; observations are kept in %s, and delivered once that is over.",
                attempt.problem.rstrip("."),
                shown(self._directory),
            )
        else:
            logger.info("sparsity-monitor: connected to %s", self._target)

    def _log_dropped(self, attempt: SpooledAttempt) -> None:
        if not attempt.dropped:
            return
        reasons = self._why_lost(attempt)
        # At the first loss of each kind, and each time the number has doubled.
        if attempt.dropped >= 2 * self._logged_dropped or len(reasons) > self._logged_kinds:
            self._logged_dropped, self._logged_kinds = attempt.dropped, len(reasons)
            logger.warning(
                "sparsity-monitor: %d items of this run are lost so far: %s.", attempt.dropped, "; ".join(reasons)
            )

    def _why_lost(self, attempt: SpooledAttempt) -> list[str]:
        left, reasons = attempt.dropped - attempt.rejected, []
        for reason, count in self._lost_here.items():
            # Of what seemed to be lost with a spool, some may have arrived.
            if (lost := min(count, left)) > 0:
                reasons.append(f"{lost} {reason}")
                left -= lost
        if attempt.rejected:
            reasons.append(
                f"{attempt.rejected} refused by the service, the last because {attempt.rejection.rstrip('.')}"
            )
        if left > 0:
            reasons.append(
                f"{left} left out because the spool in {shown(self._directory)} is full: the first, the last and "
                "every few between them stay. Make the service reachable, or keep more with `spool_max_bytes`"
            )
        return reasons


def _kind(problem: str) -> str:
    """Return a problem without details: gRPC reports another address of the same host at each try."""
    return problem.partition(": ")[0]


def undelivered(attempt: SpooledAttempt, directory: Path, target: str) -> str:
    """Return why not everything of a run that has ended is with the service, and what to do about it."""
    place = shown(directory)
    push = push_command(directory, target)
    if attempt.refused:
        return (
            f"{attempt.problem.rstrip('.')}. The observations are kept in {place}. Once that is changed, they can "
            f"be delivered; until then this is refused, too: {push}"
        )
    if attempt.problem:
        return (
            f"{attempt.problem.rstrip('.')}. The observations are kept in {place}, and the uploader goes on trying "
            f"for a while. For what is left then: {push}"
        )
    return (
        f"not everything has reached {target} yet; the uploader goes on trying for a while. For what is left then: "
        f"{push}"
    )
