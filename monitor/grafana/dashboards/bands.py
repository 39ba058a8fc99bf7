"""Colours with a meaning: where published runs are, and where alerts begin."""

from __future__ import annotations

from monitor.grafana.alerts.settings import AlertSettings
from monitor.grafana.dashboards.panels import Steps
from monitor.published import (
    DISTILLATION_CUMULATIVE,
    DISTILLATION_LOWEST,
    RL_CUMULATIVE,
    RL_STEP,
    SFT_CUMULATIVE,
    SFT_STEP,
)

_CLEAR = "transparent"
_RL = "rgba(86, 166, 75, 0.18)"
_SFT = "rgba(224, 110, 40, 0.18)"

CUMULATIVE: Steps = [
    (None, _CLEAR),
    (SFT_CUMULATIVE.low, _SFT),
    (SFT_CUMULATIVE.high, _CLEAR),
    (RL_CUMULATIVE.low, _RL),
    (RL_CUMULATIVE.high, _CLEAR),
]
CUMULATIVE_MEANING = (
    f"Bands: published RL checkpoints {RL_CUMULATIVE} in green, {RL_CUMULATIVE.source}; published SFT "
    f"{SFT_CUMULATIVE} in orange, {SFT_CUMULATIVE.source}; all of them train every weight. On-policy distillation kept "
    f"{100 * DISTILLATION_CUMULATIVE.low:g} %, {DISTILLATION_CUMULATIVE.source}."
)

STEP: Steps = [
    (None, _CLEAR),
    (SFT_STEP.low, _SFT),
    (SFT_STEP.high, _CLEAR),
    (RL_STEP.low, _RL),
    (RL_STEP.high, _CLEAR),
]
STEP_MEANING = (
    f"Bands: {RL_STEP} in green, {RL_STEP.source}; {SFT_STEP} in orange, {SFT_STEP.source}. With float32 master "
    "weights, step sparsity is lower."
)

# Divided by the share of the reference.
_ENRICHED = [round(10 * share, 1) for share in DISTILLATION_LOWEST[:2]]

ENRICHMENT: Steps = [
    (None, "#a9c9ea"),
    (0.9, "#eef0f2"),
    (1.1, "#fdf0d9"),
    (1.5, "#fdd9a0"),
    (_ENRICHED[0], "#fdbb63"),
    (_ENRICHED[1], "#f28e3c"),
]
ENRICHMENT_MEANING = (
    "Blue: less than chance; grey: within a tenth of it; then darker and darker orange, the last but one "
    f"{_ENRICHED[0]:g}–{_ENRICHED[1]:g}: what on-policy distillation had in “lowest:0.1”, where {DISTILLATION_LOWEST} "
    f"of the changed weights lay ({DISTILLATION_LOWEST.source}). RL is above 1 there (arXiv 2511.08567)."
)


def cumulative_now(settings: AlertSettings) -> Steps:
    """Red where the critical alert fires, orange where the warning does."""
    return [
        (None, "red"),
        (settings.cumulative_sparsity_critical, "orange"),
        (settings.cumulative_sparsity_warning, "green"),
    ]


def step_now(settings: AlertSettings) -> Steps:
    """Orange where the collapse of step density would alert."""
    return [(None, "orange"), (1 - settings.step_density_floor, "green")]


DENSITY: Steps = [
    (None, "#eaf3e8"),
    (0.01, "#fdf0d9"),
    (0.05, "#fdd9a0"),
    (0.10, "#fdbb63"),
    (0.30, "#f28e3c"),
    (0.64, "#d84a2b"),
]
"""From untouched to denser than any published RL run, which is 1 − 0.36."""
