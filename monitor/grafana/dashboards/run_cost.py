"""Panels of one run: what the trainer logged, on the same time axis; and what watching cost."""

from __future__ import annotations

from typing import Any

from monitor.grafana.alerts.settings import AlertSettings
from monitor.grafana.dashboards.panels import in_column, lines
from monitor.grafana.dashboards.query import ONE_RUN, Query
from monitor.grafana.promql.metric import metric
from monitor.grafana.promql.ratios import DEVICE_SHARE, HOST_SHARE, Level


def training_panels() -> list[Any]:
    """One panel per chosen metric of the trainer."""
    panel = lines(
        "$metric",
        "What the trainer logged under this name. Metric: sparsity_monitor_run_training_metric.",
        "none",
        Query(metric("run_training_metric", {**ONE_RUN, "metric": '=~"$metric"'}), "{{metric}}"),
        width=24,
        no_data="The trainer has not logged a metric of this name; choose others above.",
    )
    return [panel.repeat("metric").repeat_direction("h").max_per_row(3)]


def cost_panels(settings: AlertSettings) -> list[Any]:
    """Time, memory, and what was not delivered."""
    return [
        lines(
            "Time per observation",
            "Seconds that the latest observation took on the training thread, and on the device: in parallel on a "
            "GPU, within that time on a CPU. Metrics: sparsity_monitor_run_host_seconds, "
            "sparsity_monitor_run_device_seconds.",
            "s",
            Query(metric("run_host_seconds", ONE_RUN), "training thread"),
            Query(metric("run_device_seconds", ONE_RUN), "device"),
            width=8,
        ),
        lines(
            "Share of training time",
            "Seconds per step times steps per second, over ten minutes. The training thread should stay below "
            f"{100 * settings.host_share:g} %; a GPU works in parallel with the next forward pass. Metrics: "
            "sparsity_monitor_run_host_seconds, sparsity_monitor_run_device_seconds, "
            "sparsity_monitor_run_stride_steps, sparsity_monitor_run_step.",
            "percentunit",
            Query(HOST_SHARE.at(Level.RUN, ONE_RUN), "training thread"),
            Query(DEVICE_SHARE.at(Level.RUN, ONE_RUN), "device"),
            width=8,
        ),
        lines(
            "Memory",
            "Bytes that base, masks, previous weights and reference masks take up; a base that exists anyway, such as "
            "a reference model, takes none. Metric: sparsity_monitor_run_monitor_bytes.",
            "bytes",
            Query(metric("run_monitor_bytes", ONE_RUN), "monitor"),
            width=8,
        ),
        _steps(),
        lines(
            "Not delivered",
            "Items in the spool beside the run that are not acknowledged yet, and items lost: spool full or "
            "damaged, disk too slow or away, or refused. Metrics: sparsity_monitor_run_unsent_items, "
            "sparsity_monitor_run_dropped_items.",
            "none",
            Query(metric("run_unsent_items", ONE_RUN), "unsent"),
            Query(metric("run_dropped_items", ONE_RUN), "dropped"),
        ),
    ]


def _steps() -> Any:
    panel = lines(
        "Steps",
        "Optimizer step; on the right, the stride between observations, and the attempt, which goes up when the run is "
        "resumed. Metrics: sparsity_monitor_run_step, sparsity_monitor_run_stride_steps, sparsity_monitor_run_attempt.",
        "none",
        Query(metric("run_step", ONE_RUN), "step"),
        Query(metric("run_stride_steps", ONE_RUN), "stride"),
        Query(metric("run_attempt", ONE_RUN), "attempt"),
    )
    for name in ("stride", "attempt"):
        panel = in_column(panel, name, custom_axisPlacement="right")
    return panel
