"""Service health: whether what runs report arrives, is kept, and is scraped."""

from __future__ import annotations

from typing import Any

from grafana_foundation_sdk.models.dashboard import DataTransformerConfig

from monitor.grafana.addresses import SERVICE_UID
from monitor.grafana.dashboards import variables
from monitor.grafana.dashboards.board import Row, board
from monitor.grafana.dashboards.panels import PER_SECOND, TEXT, lines, number, rows
from monitor.grafana.dashboards.query import INSTANCE, RATE, Query
from monitor.grafana.promql.metric import braces, metric

_NOT_SCRAPED = "The service is not scraped: is it running, and in Prometheus' scrape configuration?"
_INSTANCE = "{{instance}}"


def service_health() -> dict[str, Any]:
    """Return the dashboard of service processes."""
    return board(
        SERVICE_UID,
        "sparsity-monitor / Service health",
        "The service itself: what arrives, how long the store takes, which limits were hit, what a scrape costs.",
        variables=variables.of_service(),
        rows=[
            Row("Now", [*_now(), _versions()]),
            Row("What arrives", _ingest()),
            Row("What is kept", _store()),
            Row("What is scraped", _scrape()),
            Row("Who is let in", [_certificate()]),
        ],
        alerts_of=INSTANCE,
    )


def _of_services(name: str) -> str:
    """Return what Prometheus itself knows about a scrape. Of a service that is down, it still knows what it was."""
    ours = f"last_over_time({metric('build_info', INSTANCE)}[1d])"
    return f"{name}{braces(INSTANCE)} and on (job, instance) {ours}"


def _now() -> list[Any]:
    return [
        number(
            "Up",
            "Services that Prometheus can scrape, of those that it could within the last day. Metrics: up, "
            "sparsity_monitor_build_info.",
            "none",
            Query(f"sum({_of_services('up')})", now=True),
            [(None, "red"), (1, "green")],
            no_data=_NOT_SCRAPED,
        ),
        _number("Runs", "Runs in the store.", "runs"),
        _number("Open streams", "Streams on which runs are reporting now.", "open_streams"),
        _number("Rolled-up runs", "Runs without series per layer, because of the budget.", "rolled_up_runs", 1),
    ]


def _number(title: str, meaning: str, name: str, orange_from: float | None = None) -> Any:
    steps: list[tuple[float | None, str]] = [(None, "text")]
    if orange_from is not None:
        steps.append((orange_from, "orange"))
    query = Query(f"sum({metric(name, INSTANCE)})", now=True)
    description = f"{meaning} Metric: sparsity_monitor_{name}."
    return number(title, description, "none", query, steps, no_data=_NOT_SCRAPED)


def _versions() -> Any:
    panel = rows(
        "Version",
        "Version of the service and of the protocol. Metric: sparsity_monitor_build_info.",
        TEXT,
        Query(f"max by (instance, version, protocol_version) ({metric('build_info', INSTANCE)})", table=True),
        width=8,
        height=4,
        no_data=_NOT_SCRAPED,
    )
    without = {"excludeByName": {"Time": True, "Value": True}}
    return panel.with_transformation(DataTransformerConfig(id_val="organize", options=without))


def _per_second(name: str) -> str:
    return f"rate({metric(name, INSTANCE)}[{RATE}])"


def _ingest() -> list[Any]:
    return [
        lines(
            "Items",
            "Items per second: stored; sent again although they were stored (after a broken connection); rejected "
            "because they can never be stored. Metrics: sparsity_monitor_items_stored_total, "
            "sparsity_monitor_items_duplicate_total, sparsity_monitor_items_rejected_total.",
            PER_SECOND,
            Query(_per_second("items_stored_total"), f"stored {_INSTANCE}"),
            Query(_per_second("items_duplicate_total"), f"duplicate {_INSTANCE}"),
            Query(_per_second("items_rejected_total"), f"rejected {_INSTANCE}"),
            width=8,
            no_data=_NOT_SCRAPED,
        ),
        lines(
            "Registrations and heartbeats",
            "Per second. Metrics: sparsity_monitor_registrations_total, sparsity_monitor_heartbeats_total.",
            PER_SECOND,
            Query(_per_second("registrations_total"), f"registrations {_INSTANCE}"),
            Query(_per_second("heartbeats_total"), f"heartbeats {_INSTANCE}"),
            width=8,
            no_data=_NOT_SCRAPED,
        ),
        lines(
            "Limits hit",
            "Requests and items per second that exceeded a limit, by limit. Metric: sparsity_monitor_limit_hits_total.",
            PER_SECOND,
            Query(_per_second("limit_hits_total"), f"{{{{limit}}}} {_INSTANCE}"),
            width=8,
            no_data=_NOT_SCRAPED,
        ),
    ]


def _store() -> list[Any]:
    buckets = metric("store_commit_seconds", INSTANCE, suffix="_bucket")
    return [
        lines(
            "Commit time",
            "Median and 99th percentile of the time that a transaction with items takes. A sender waits for it before "
            "it forgets an item. Metric: sparsity_monitor_store_commit_seconds.",
            "s",
            Query(f"histogram_quantile(0.5, rate({buckets}[{RATE}]))", f"median {_INSTANCE}"),
            Query(f"histogram_quantile(0.99, rate({buckets}[{RATE}]))", f"99 % {_INSTANCE}"),
            width=8,
            no_data=_NOT_SCRAPED,
        ),
        lines(
            "Commits and failures",
            "Transactions per second, calls to the store that failed, and errors in what the service does beside: its "
            "log says which. Metrics: sparsity_monitor_store_commit_seconds, sparsity_monitor_store_errors_total, "
            "sparsity_monitor_background_errors_total.",
            PER_SECOND,
            Query(f"rate({metric('store_commit_seconds', INSTANCE, suffix='_count')}[{RATE}])", f"commits {_INSTANCE}"),
            Query(_per_second("store_errors_total"), f"failures {_INSTANCE}"),
            Query(_per_second("background_errors_total"), f"{{{{work}}}} failed {_INSTANCE}"),
            width=8,
            no_data=_NOT_SCRAPED,
        ),
        lines(
            "Removed by retention",
            "Stored items that retention removed, per second: with their run, for its age or for the size of the "
            "store, or of the observations of old runs that are thinned. Metric: sparsity_monitor_items_removed_total.",
            PER_SECOND,
            Query(_per_second("items_removed_total"), f"{{{{why}}}} {_INSTANCE}"),
            width=8,
            no_data=_NOT_SCRAPED,
        ),
    ]


def _scrape() -> list[Any]:
    return [
        lines(
            "Series against the budget",
            "Series of runs and groups in a scrape, and how many are allowed before the largest runs fall back to "
            "totals. Metrics: sparsity_monitor_series, sparsity_monitor_series_budget.",
            "short",
            Query(metric("series", INSTANCE), f"series {_INSTANCE}"),
            Query(metric("series_budget", INSTANCE), f"budget {_INSTANCE}"),
            no_data=_NOT_SCRAPED,
        ),
        lines(
            "Scrape time",
            "Seconds that Prometheus takes to read all metrics. Metrics: scrape_duration_seconds, "
            "sparsity_monitor_build_info.",
            "s",
            Query(_of_services("scrape_duration_seconds"), _INSTANCE),
            no_data=_NOT_SCRAPED,
        ),
    ]


def _certificate() -> Any:
    expires = metric("certificate_expires_timestamp_seconds", INSTANCE)
    return lines(
        "Certificate",
        "Time until the certificate of the service expires. Renewing it takes no restart. Metric: "
        "sparsity_monitor_certificate_expires_timestamp_seconds.",
        "s",
        Query(f"{expires} - time()", _INSTANCE),
        no_data="The service has no certificate (--tls-certificate), or is not scraped.",
    )
