"""Which of the trainer's metrics are reported: all that a service takes, the most important ones first."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from monitor.errors import name_some
from monitor.limits import Limits, how_to_allow, importance, legible, shorten
from monitor.report.messages.numbers import Number, numbers_in

logger = logging.getLogger(__name__)

_SHOWN_CHARACTERS = 60


class TrainerLog:
    """Chooses from each log of the trainer what a service takes, and says once which limit left something out."""

    def __init__(self) -> None:
        self._limits = Limits.in_force()
        self._said: set[str] = set()

    def choose(self, logs: Mapping[str, object]) -> dict[str, Number]:
        """Return the numbers of a log that are reported, by their names."""
        numbers = {legible(str(name)): number for name, number in numbers_in(logs).items()}
        long = [name for name in numbers if len(name) > self._limits.max_label_length]
        self._say(long, numbers, "max_label_length", "characters in the name of a metric")
        fitting = sorted((name for name in numbers if name not in set(long)), key=importance)
        most = self._limits.max_training_metrics
        self._say(fitting[most:], numbers, "max_training_metrics", "metrics in one log")
        return {name: numbers[name] for name in fitting[:most]}

    def _say(self, left_out: list[str], of: Mapping[str, Number], limit: str, of_what: str) -> None:
        if not left_out or limit in self._said:
            return
        self._said.add(limit)
        logger.warning(
            "sparsity-monitor: %d of the %d metrics that the trainer logs are not reported, the others are: a service "
            "takes at most %d %s. Left out: %s. To have them, too, %s.",
            len(left_out),
            len(of),
            getattr(self._limits, limit),
            of_what,
            name_some([shorten(name, _SHOWN_CHARACTERS) for name in left_out], limit=3),
            how_to_allow(limit),
        )
