"""Which runs alerts are about: those that train now, and are past their warm-up."""

from __future__ import annotations

from monitor.grafana.metric import IDENTITY, metric, with_name
from monitor.grafana.settings import AlertSettings

_MEASURED_AS = "name, criterion, visible_dtype"


def in_state(states: str) -> str:
    """Return the runs that are in one of the states, given as a regular expression."""
    return metric("run_state", {"state": f'=~"{states}"'}) + " == 1"


def about_training_runs(condition: str, settings: AlertSettings, *, warm: bool = True) -> str:
    """Restrict a condition to runs that train, and give it their name and what they are measured by.

    Stalled runs belong to them: what was wrong before they stalled is not right because of it. Finished, failed and
    lost ones do not.

    Args:
        warm: leave runs out that are still in their warm-up.
    """
    guards = [in_state("running|stalled")]
    if warm:
        guards.append(f"{metric('run_step')} >= {settings.warmup_steps}")
        guards.append(f"time() - {metric('run_started_timestamp_seconds')} >= {settings.warmup_seconds}")
    restricted = "\n".join([f"({condition})", *(f"and on ({IDENTITY}) ({guard})" for guard in guards)])
    return with_name(f"\n{restricted}\n", labels=_MEASURED_AS)
