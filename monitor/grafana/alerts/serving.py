"""Alerts about the service as a whole: down, with nobody to take over, or with nobody who serves."""

from __future__ import annotations

from monitor.grafana.addresses import SERVICE_UID
from monitor.grafana.alerts.alert import Alert
from monitor.grafana.alerts.settings import AlertSettings
from monitor.grafana.promql.metric import Matchers
from monitor.grafana.promql.pairs import left_alone, served_by_another, served_by_none

_PANEL = (SERVICE_UID, "Up")


def serving_alerts(settings: AlertSettings) -> list[Alert]:
    """Return the alerts about services, the gravest first."""
    services = {"job": f'="{settings.job}"'}
    return [_service_down(settings, services), _nobody_serves(settings, services), _left_alone(settings, services)]


def _service_down(settings: AlertSettings, services: Matchers) -> Alert:
    up = f'up{{job="{settings.job}"}}'
    return Alert(
        name="ServiceDown",
        severity="critical",
        expr=lambda _: f"{up} == 0 unless on (job, instance) ({served_by_another(services)}) or absent({up})",
        hold_seconds=settings.down_seconds,
        panel=_PANEL,
        summary="The sparsity-monitor service cannot be scraped",
        description="Prometheus gets no metrics from job {{ .Labels.job }}. Runs continue and keep their observations "
        "on their own disks, but nobody sees them, and no alert about a run can fire.",
        meaning="The service is down, cannot be reached, or is not in the scrape configuration. Of a pair, this is "
        "about both: where one goes on, NobodyTakesOver says so instead, for as long as Prometheus remembers which "
        "store the other one had, a week.",
        actions=(
            "Check whether the process is running and what it logged last; `/readyz` says whether its store answers.",
            "If the store's disk is full, make room there, or delete runs with `sparsity-monitor runs delete`. Nothing "
            "that was not committed has been acknowledged.",
            "Restart it on the same store. Uploaders reconnect on their own and send what is missing.",
            "Of two services on one store, one whose `sparsity_monitor_standing_by` is 0 goes on, and nothing is "
            "unseen. Prometheus knows a pair by `sparsity_monitor_store_info`, which an older version does not export, "
            "nor one whose log says that the database does not say which one it is.",
        ),
    )


def _nobody_serves(settings: AlertSettings, services: Matchers) -> Alert:
    return Alert(
        name="NobodyServes",
        severity="critical",
        expr=lambda _: served_by_none(services),
        hold_seconds=settings.down_seconds,
        panel=_PANEL,
        summary="No service of a sparsity-monitor store serves: all stand by",
        description="All services of store {{ .Labels.store }} that can be scraped stand by. Runs continue and keep "
        "their observations on their own disks, but nobody sees them, and no alert about a run can fire.",
        meaning="Services that stand by are well, but none of them has the store: the database does not answer, or "
        "who holds the store's lock is no service that Prometheus can scrape.",
        actions=(
            "Ask `/readyz` of each: it says who has the store, or why it cannot be seen.",
            "If the database does not answer, bring it back: one of them takes the store by itself, and uploaders send "
            "what is missing.",
            "If another service has it, end that one, or add it to the scrape configuration. A process that is stopped "
            "holds the store, too.",
        ),
    )


def _left_alone(settings: AlertSettings, services: Matchers) -> Alert:
    return Alert(
        name="NobodyTakesOver",
        severity="warning",
        expr=lambda _: left_alone(services),
        hold_seconds=settings.hold_seconds,
        panel=_PANEL,
        summary="Of a pair of sparsity-monitor services, only one is left",
        description="{{ .Labels.instance }} serves store {{ .Labels.store }}, and no other service of it can be "
        "scraped. Nothing is unseen, but when this one ends, nobody takes over.",
        meaning="A service was started with `--standby`, which is for both of a pair, and Prometheus gets no metrics "
        "from another service of the same store in the same job.",
        actions=(
            "Look for the other one: is its process running, what did it log last, can it be reached?",
            "Start it with the same `--store-url` and `--standby`. It stands by, and disturbs nothing.",
            "If it runs, add it to the scrape configuration: both are scraped, under one job.",
            "If there is to be one only, start it without `--standby`.",
        ),
    )
