"""Alerts about watching itself: the run that went quiet, what was lost, what it cost, the service."""

from __future__ import annotations

from monitor.grafana.addresses import FLEET_UID, RUN_UID, SERVICE_UID
from monitor.grafana.alerts.alert import Alert
from monitor.grafana.alerts.conditions import about_training_runs, in_state
from monitor.grafana.alerts.serving import serving_alerts
from monitor.grafana.alerts.settings import AlertSettings
from monitor.grafana.promql.metric import IDENTITY, metric, with_name
from monitor.grafana.promql.ratios import HOST_SHARE, Level, Reading

_RUN = "Run {{ .Labels.name }} ({{ .Labels.run }})"


def running_alerts(settings: AlertSettings) -> list[Alert]:
    """Return the alerts about runs and service, the gravest first."""
    return [
        *serving_alerts(settings),
        _lost(settings),
        _stalled(settings),
        _dropped(settings),
        _expensive(settings),
        _series_budget(settings),
        _certificate(settings),
    ]


def _lost(settings: AlertSettings) -> Alert:
    # Bounded, so that a run that was killed on purpose and is never resumed does not alert for ever.
    condition = (
        f"{in_state('lost')}\nand on ({IDENTITY}) (time() - {metric('run_last_heard_timestamp_seconds')} < "
        f"{settings.lost_seconds})"
    )
    return Alert(
        name="RunLost",
        severity="critical",
        expr=lambda _: with_name(f"\n{condition}\n"),
        hold_seconds=settings.state_hold_seconds,
        panel=(FLEET_UID, "State of all runs"),
        summary=f"{_RUN} is lost: nothing has been heard from it",
        description="Neither observations nor heartbeats arrive, and the run did not report that it ended. It was "
        "killed, or its machine or its network is down.",
        meaning="The uploader beside the training process is silent. It outlives a killed trainer, so suspect the "
        "machine or the network first.",
        actions=(
            "Check whether the training job is still running. If it is, check the network between it and the service.",
            "If it is gone, resume it with the same output directory; it continues as the next attempt of the same "
            "run.",
            "Deliver what is still in its spool with `sparsity-monitor push DIRECTORY`.",
        ),
    )


def _stalled(settings: AlertSettings) -> Alert:
    return Alert(
        name="RunStalled",
        severity="warning",
        expr=lambda _: with_name(in_state("stalled")),
        hold_seconds=settings.state_hold_seconds,
        panel=(FLEET_UID, "State of all runs"),
        summary=f"{_RUN} is stalled: alive, but without observations",
        description="The uploader is alive, but no observation has arrived for far longer than this run ever paused.",
        meaning="Training makes no progress, or a step takes far longer than any before. A run is stalled when a pause "
        "between observations is three times as long as the longest before, and at least a third of "
        "`--stalled-after-seconds`; until five pauses are known, when it is as long as that setting.",
        actions=(
            "Look at the training job: a hung collective, a dead generation server, a full disk, an endless "
            "evaluation?",
            "If it evaluates or compiles for that long, raise `--stalled-after-seconds`.",
            "If training goes on and only observations are missing, its log says why the monitor stopped.",
        ),
    )


def _dropped(settings: AlertSettings) -> Alert:
    dropped = metric("run_dropped_items")
    seconds = settings.dropped_seconds
    # The minimum, since a new attempt counts from zero again, as does a run that is seen for the first time. The last
    # value before that may be some scrapes, or an outage of the service, older.
    known = f"last_over_time({dropped}[1d] offset {seconds}s)"
    before = f"min_over_time({dropped}[{seconds}s]) < {known} or {known} or 0 * {dropped}"
    condition = f"{dropped} - ({before}) > 0"
    return Alert(
        name="ObservationsDropped",
        severity="warning",
        expr=lambda _: about_training_runs(condition, settings, warm=False),
        hold_seconds=0,
        panel=(RUN_UID, "Not delivered"),
        summary=f"{_RUN} dropped observations",
        description="{{ .Value | humanize }} items were lost: the spool beside the run was full or damaged, its disk "
        "too slow or away, or the service refused them. The run's history has a gap.",
        meaning="The service was unreachable for so long that the spool reached its bound; or the disk did not keep "
        "up with training, was full or away, or damaged the spool; or items exceeded a limit of the service.",
        actions=(
            "Check the training log: it says how many were lost in which way; and `uploader.log` beside the run's "
            "spool.",
            "Where the spool was full, restore the service, or the network to it: the uploader then sends what is left "
            "on its own. Raise `spool_max_bytes`, or `every`, so that an outage of this length fits.",
            "Where the disk failed or was too slow, make room on it, or give another one with `directory`; a damaged "
            "spool was set aside there, and a new one is in its place.",
            "Where the service refused them, the training log has the reason and the limit.",
        ),
    )


def _expensive(settings: AlertSettings) -> Alert:
    def expr(reading: Reading) -> str:
        condition = f"{reading.now(HOST_SHARE, Level.RUN)} > {settings.host_share:g}"
        return about_training_runs(condition, settings)

    return Alert(
        name="MonitorTooExpensive",
        severity="warning",
        expr=expr,
        hold_seconds=settings.hold_seconds,
        panel=(RUN_UID, "Share of training time"),
        summary=f"{_RUN} spends too much time being monitored",
        description="Observing takes {{ .Value | humanizePercentage }} of the training thread's time, more than "
        f"{100 * settings.host_share:g} %.",
        meaning="Seconds of the training thread per step, times steps per second.",
        actions=(
            "Raise `every`, so that not every step is observed; counts stay exact, only less frequent.",
            "Leave out tolerances and references that nobody looks at; each is one more pass over the mask.",
            "On a GPU the pass overlaps the next forward pass: if it does not fit there, memory bandwidth is the "
            "bottleneck. Compare device seconds and host seconds on the Run dashboard.",
        ),
    )


def _series_budget(settings: AlertSettings) -> Alert:
    return Alert(
        name="SeriesBudgetExceeded",
        severity="warning",
        expr=lambda _: f"{metric('rolled_up_runs')} > 0",
        hold_seconds=settings.hold_seconds,
        panel=(SERVICE_UID, "Series against the budget"),
        summary="Runs are shown without their layers because of the series budget",
        description="{{ .Value | humanize }} runs have no series per layer and module on {{ .Labels.instance }}: all "
        "of them together would exceed the series budget. Totals per run are complete.",
        meaning="More groups are live than the service may export. The largest runs fell back to totals.",
        actions=(
            "Raise `--series-budget` if Prometheus has the memory for it: a few kilobytes per series.",
            "Lower `--finished-grace-seconds`, so that finished runs leave the scrape sooner.",
            "The stored history is complete; the service's own page and API show it by layer.",
        ),
    )


def _certificate(settings: AlertSettings) -> Alert:
    return Alert(
        name="CertificateExpiresSoon",
        severity="warning",
        expr=lambda _: f"{metric('certificate_expires_timestamp_seconds')} - time() < {settings.certificate_seconds}",
        hold_seconds=settings.hold_seconds,
        panel=(SERVICE_UID, "Certificate"),
        summary="The certificate of the sparsity-monitor service expires soon",
        description="The certificate of {{ .Labels.instance }} expires in {{ .Value | humanizeDuration }}. From then "
        "on no training delivers, nobody reads the pages, and Prometheus cannot scrape over TLS.",
        meaning="What was to renew it, such as cert-manager or certbot, has not, or the new one cannot be used: "
        "the service goes on with the one that it read last.",
        actions=(
            "Read the service's log: it says why a new certificate is not used.",
            "Replace the files of `--tls-certificate` and `--tls-key`. The service reads them anew every ten seconds, "
            "without a restart.",
            "Trainings keep what they observe on their own disks meanwhile, and deliver it afterwards.",
        ),
    )
