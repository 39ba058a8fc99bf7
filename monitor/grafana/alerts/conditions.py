"""Which runs alerts are about: those that train now, and are past their warm-up."""

from __future__ import annotations

from collections.abc import Iterable

from monitor.grafana.alerts.settings import AlertSettings
from monitor.grafana.promql.metric import IDENTITY, metric, with_name

_MEASURED_AS = "name, criterion, visible_dtype"


def in_state(states: str) -> str:
    """Return the runs that are in one of the states, given as a regular expression."""
    return metric("run_state", {"state": f'=~"{states}"'}) + " == 1"


def about_training_runs(condition: str, settings: AlertSettings, *, warm: bool = True) -> str:
    """Restrict a condition to runs that train, and give it their name and what they are measured by.

    Stalled runs are among them, because stalling mends nothing. Those that ended, and lost ones, are not.

    Args:
        warm: leave runs out that are still in their warm-up.
    """
    guards = [in_state("running|stalled")]
    if warm:
        guards += _past_warmup(settings)
    return with_name(f"\n{_where(condition, guards)}\n", labels=_MEASURED_AS)


def settled_history(now: str, settings: AlertSettings, seconds: int, offset: int = 0) -> str:
    """Return the values of an expression over a time that ended `offset` seconds ago, without those of the warm-up.

    They are not a steady state: a run would be compared with a past in which it had hardly begun to move.
    """
    ago = f" offset {offset}s" if offset else ""
    return f"(\n{_where(now, _past_warmup(settings))}\n)[{seconds}s:]{ago}"


def started_before(seconds: int) -> str:
    """Return the runs whose latest attempt started at least so long ago."""
    return f"time() - {metric('run_started_timestamp_seconds')} >= {seconds}"


def _past_warmup(settings: AlertSettings) -> list[str]:
    return [f"{metric('run_step')} >= {settings.warmup_steps}", started_before(settings.warmup_seconds)]


def _where(condition: str, guards: Iterable[str]) -> str:
    return "\n".join([f"({condition})", *(f"and on ({IDENTITY}) ({guard})" for guard in guards)])
