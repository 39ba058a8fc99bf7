"""The alert about an engine that generates for a training, and serves other weights than those that train."""

from __future__ import annotations

from monitor.grafana.addresses import RUN_UID
from monitor.grafana.alerts.alert import Alert
from monitor.grafana.alerts.conditions import about_training_runs
from monitor.grafana.alerts.settings import AlertSettings
from monitor.grafana.promql.served import differing_groups


def served_weights_stale(settings: AlertSettings) -> Alert:
    """Return the alert: it lasts until the engine is asked again and serves what it is to."""
    condition = f"{differing_groups()} > 0"
    return Alert(
        name="ServedWeightsStale",
        severity="critical",
        expr=lambda _: about_training_runs(condition, settings, warm=False),
        hold_seconds=settings.hold_seconds,
        panel=(RUN_UID, "Groups not served as trained"),
        summary="Run {{ .Labels.name }} ({{ .Labels.run }}) trains on what other weights generate",
        description="When last asked, the engine that generates for the run served {{ .Value | humanize }} groups of "
        "weights otherwise than they are trained.",
        meaning="The fingerprints of the engine's weights were compared with those of the trained ones, by `served()` "
        "or by the callback that asked the trainer's vLLM, and differ. They are of an earlier step, or of none: the "
        "sync is left out or fails, leaves some weights out, or writes to a copy that is not served; adapters are not "
        "delivered; or a sleeping engine woke up with what it had.",
        actions=(
            "Read the training log: it says once which step is served, or which groups differ.",
            "If all differ and no step fits, check that the engine serves the run's visible dtype, not quantised, and "
            "that its ranks and the slices given to `fingerprint()` fit.",
            "Hand the weights over again and call `served()`; a trainer's vLLM is asked again at each step. "
            "What was generated since the last match is off-policy.",
        ),
    )
