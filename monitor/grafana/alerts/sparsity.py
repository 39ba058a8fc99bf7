"""Alerts about what the updates are like: no longer sparse, unevenly so, elsewhere than the reference, none at all."""

from __future__ import annotations

from monitor.grafana.addresses import RUN_UID
from monitor.grafana.alerts.alert import Alert
from monitor.grafana.alerts.conditions import about_training_runs, settled_history, started_before
from monitor.grafana.alerts.settings import AlertSettings
from monitor.grafana.promql.metric import IDENTITY, metric
from monitor.grafana.promql.ratios import CUMULATIVE_SPARSITY, LIFT, STEP_SPARSITY, TRAINED, Level, Reading
from monitor.published import RL_CUMULATIVE, SFT_CUMULATIVE
from monitor.thresholds import CUMULATIVE_CRITICAL, CUMULATIVE_LOW, STEP_COLLAPSED

_RUN = "Run {{ .Labels.name }} ({{ .Labels.run }})"
_PERCENT = "{{ .Value | humanizePercentage }}"
_MEASURED = "criterion {{ .Labels.criterion }}, {{ .Labels.visible_dtype }}"


def sparsity_alerts(settings: AlertSettings) -> list[Alert]:
    """Return the alerts about sparsity, the gravest first."""
    return [
        _non_finite(settings),
        _cumulative_critical(settings),
        _cumulative_low(settings),
        _step_collapsed(settings),
        _far_denser(settings, Level.LAYER),
        _far_denser(settings, Level.MODULE),
        _overlap_at_chance(settings),
        _inert(settings),
    ]


def _non_finite(settings: AlertSettings) -> Alert:
    return Alert(
        name="NonFiniteWeights",
        severity="critical",
        expr=lambda _: about_training_runs(f"{metric('run_non_finite_weights')} > 0", settings, warm=False),
        hold_seconds=0,
        panel=(RUN_UID, "Non-finite weights"),
        summary=f"{_RUN} has weights that are NaN or infinite",
        description="{{ .Value | humanize }} visible weights ({{ .Labels.visible_dtype }}) are NaN or infinite. "
        "Training from here on is wasted.",
        meaning="At least one weight is NaN or infinite, and this spreads through the model within the next steps.",
        actions=(
            "Stop the run: it will not recover on its own.",
            "On the Run dashboard, find the layer that had non-finite weights first, and what loss, gradient norm and "
            "learning rate did just before.",
            "Resume from a checkpoint before that step, with a lower learning rate, gradient clipping or a longer "
            "warm-up. In float16, visible weights overflow above 65504; in bfloat16 they do not.",
        ),
    )


def _below(reading: Reading, limit: float, settings: AlertSettings) -> str:
    return about_training_runs(f"{reading.now(CUMULATIVE_SPARSITY, Level.RUN)} < {limit:g}", settings)


def _cumulative_critical(settings: AlertSettings) -> Alert:
    limit = settings.cumulative_sparsity_critical
    return Alert(
        name=CUMULATIVE_CRITICAL.alert,
        severity="critical",
        expr=lambda reading: _below(reading, limit, settings),
        hold_seconds=settings.hold_seconds,
        panel=(RUN_UID, "Cumulative sparsity"),
        summary=f"{_RUN} is denser than any published RL run",
        description=f"Cumulative sparsity is {_PERCENT} of the trained weights ({_MEASURED}), below {100 * limit:g} %. "
        f"Published RL checkpoints keep {RL_CUMULATIVE}, supervised fine-tuning {SFT_CUMULATIVE}.",
        meaning="Most trained weights differ from the base; frozen ones are not counted. No published RL checkpoint "
        "looks like this; supervised fine-tuning does.",
        actions=(
            "Is this supervised fine-tuning? Then this is expected: silence the alert by its label `run`, or route "
            "those whose `name` says so to a receiver that does nothing.",
            "Does it train adapters, or only a few layers? Published runs train all weights. Where few train, the "
            "learning rate is usually higher (LoRA often 1e-4), and a larger share of them changes; the Run dashboard "
            "also shows the cumulative sparsity of the whole model.",
            "Check that the learning rate is the one you intended: raising it makes most of the sparsity disappear "
            "(arXiv 2511.08567). RL usually runs at 1e-6 or below.",
            "Check the base: compared with weights other than those the run started from, everything looks changed. "
            "The Run dashboard shows its source and fingerprint.",
            "See on the Run dashboard whether sparsity fell at once (learning rate, base, data) or gradually (a long "
            "run).",
            "Data far from the policy's own distribution also makes updates dense (arXiv 2505.11711).",
        ),
    )


def _cumulative_low(settings: AlertSettings) -> Alert:
    limit = settings.cumulative_sparsity_warning
    return Alert(
        name=CUMULATIVE_LOW.alert,
        severity="warning",
        expr=lambda reading: _below(reading, limit, settings),
        hold_seconds=settings.hold_seconds,
        panel=(RUN_UID, "Cumulative sparsity"),
        summary=f"{_RUN} has changed more than {100 * (1 - limit):g} % of its trained weights",
        description=f"Cumulative sparsity is {_PERCENT} of the trained weights ({_MEASURED}), below {100 * limit:g} %. "
        f"Published RL checkpoints keep {RL_CUMULATIVE}.",
        meaning="The update is becoming dense. Whether that is unusual depends on the criterion: of the published RL "
        "checkpoints, one in ten is below 70 % at tolerance 1e-5 (arXiv 2505.11711), but seven in eight are by bits "
        "(arXiv 2511.08567).",
        actions=(
            "Look at the step: the densest of them, at 36.3 %, had trained for more than 3000 steps.",
            "Compare with earlier runs of the same recipe on the Compare dashboard. If they all end up here, lower "
            "`cumulative_sparsity_warning`.",
            "Check the learning rate, the batch size, and whether the data is still close to what the policy itself "
            "generates.",
        ),
    )


def _step_collapsed(settings: AlertSettings) -> Alert:
    recent, history = settings.step_recent_seconds, settings.step_history_seconds

    def expr(reading: Reading) -> str:
        now = f"1 - quantile_over_time(0.5, {reading.over(STEP_SPARSITY, Level.RUN, recent)})"
        past = settled_history(reading.now(STEP_SPARSITY, Level.RUN), settings, history, offset=recent)
        before = f"1 - quantile_over_time(0.5, {past})"
        condition = (
            f"({now}) > {settings.step_density_factor:g} * ({before})\nand ({now}) > {settings.step_density_floor:g}"
        )
        return about_training_runs(condition, settings)

    return Alert(
        name=STEP_COLLAPSED.alert,
        severity="warning",
        expr=expr,
        hold_seconds=settings.hold_seconds,
        panel=(RUN_UID, "Step sparsity"),
        summary=f"{_RUN} suddenly changes far more weights per observation",
        description=f"{_PERCENT} of the trained visible weights change from one observation to the next, more than "
        f"{settings.step_density_factor:g} times this run's own recent median (step density, {{{{ "
        ".Labels.visible_dtype }}).",
        meaning="Step density (1 − step sparsity) rose far above the run's own median over the preceding hours.",
        actions=(
            "On the Run dashboard, find the step at which it rose, and what changed there: learning-rate schedule, "
            "curriculum stage, data, a resume.",
            "If the stride between observations was raised, more steps lie between two of them, and this is expected.",
            "If loss or reward worsened at the same step, go back to a checkpoint before it.",
        ),
    )


def _far_denser(settings: AlertSettings, level: Level) -> Alert:
    label = {Level.LAYER: "layer", Level.MODULE: "module"}[level]
    return Alert(
        name=f"{label.capitalize()}FarDenser",
        severity="warning",
        expr=lambda reading: _outliers(reading, level, settings),
        hold_seconds=settings.hold_seconds,
        panel=(RUN_UID, f"Cumulative sparsity by {label}"),
        summary=f"{_RUN} changes {label} {{{{ .Labels.{label} }}}} far more than the others",
        description=f"Cumulative density of {label} {{{{ .Labels.{label} }}}} is {_PERCENT} ({_MEASURED}), more than "
        f"{settings.outlier_factor:g} times the median {label} that this run trains.",
        meaning=f"One {label} takes far more updates than the rest. In published runs, all are similarly sparse.",
        actions=(
            "Look at the matrix of layers and modules on the Run dashboard: is it one matrix or many?",
            "Is it trained differently from the rest, such as with adapters on more of its matrices? Then this is "
            "expected: only frozen parts are left out of the median.",
            "Check whether that part has a learning rate, weight decay or initialisation of its own.",
            "A newly added part (a head, new tokens) is expected to be dense; leave it out with `exclude`.",
        ),
    )


def _outliers(reading: Reading, level: Level, settings: AlertSettings) -> str:
    """Density of the parts that are far above the median part of their run. Frozen ones have no density."""
    layers = {"layer": '!="-"'} if level is Level.LAYER else {}
    density = f"(1 - {reading.now(CUMULATIVE_SPARSITY, level, layers)})"
    median = f"quantile by (job, instance, run) (0.5, {density})"
    condition = (
        f"{density} > on (job, instance, run) group_left () {settings.outlier_factor:g} * {median}\nand {density} > "
        f"{settings.outlier_density_floor:g}"
    )
    if level is Level.MODULE:
        condition += f"\nand on (job, instance, run, module) ({_SHARE_OF_MODULE} > {settings.outlier_share:g})"
    return about_training_runs(condition, settings)


_SHARE_OF_MODULE = f"{TRAINED.at(Level.MODULE)} / on ({IDENTITY}) group_left () {TRAINED.at(Level.RUN)}"


def _overlap_at_chance(settings: AlertSettings) -> Alert:
    def expr(reading: Reading) -> str:
        past = settled_history(reading.now(LIFT, Level.RUN), settings, settings.lift_history_seconds)
        before = f"max_over_time({past})"
        condition = (
            f"{reading.now(LIFT, Level.RUN)} < {settings.lift_chance:g}\nand {before} > {settings.lift_before:g}"
        )
        return about_training_runs(condition, settings)

    return Alert(
        name="OverlapAtChance",
        severity="warning",
        expr=expr,
        hold_seconds=settings.hold_seconds,
        panel=(RUN_UID, "Lift"),
        summary=f"{_RUN} no longer lands where reference {{{{ .Labels.reference }}}} did",
        description="Overlap with reference {{ .Labels.reference }} is {{ .Value | humanize }} times what chance "
        f"would give. It was above {settings.lift_before:g} before; published runs reach 1.65 to 2.6.",
        meaning="The update mask used to overlap the reference mask far more than by chance, and no longer does: "
        "updates land elsewhere, or nearly everywhere.",
        actions=(
            "If cumulative sparsity fell as well, start there: a dense mask overlaps any other no more than by chance.",
            "Otherwise the data or the objective changed: look at lift by layer on the Run dashboard.",
            "Check that the reference belongs to the same base model.",
        ),
    )


def _inert(settings: AlertSettings) -> Alert:
    seconds = settings.inert_seconds
    most, hidden = f"max_over_time({metric('run_step_changed_weights')}[{seconds}s])", metric("run_hidden_weights")
    condition = (
        f"({most} == 0 or ({hidden} >= {settings.inert_hidden_factor} * {most} and {hidden} >= "
        f"{settings.inert_hidden_factor} * {metric('run_changed_weights')}))\nand "
        f"changes({metric('run_step')}[{seconds}s]) >= {settings.inert_observations}\n"
        # A younger run may still be raising its learning rate.
        f"and on ({IDENTITY}) ({started_before(seconds)})"
    )
    return Alert(
        name="UpdatesInert",
        severity="warning",
        expr=lambda _: about_training_runs(condition, settings),
        hold_seconds=settings.hold_seconds,
        panel=(RUN_UID, "Hidden"),
        summary=f"{_RUN} trains, but no visible weight moves",
        description="Training continues, but for as long as this alert looks back, not one visible weight ({{ "
        ".Labels.visible_dtype }}) has changed between observations, or next to none while the stored ones move.",
        meaning="Every update is smaller than the visible dtype can resolve, or there is none. A bfloat16 weight "
        "moves only when its update exceeds about 0.2–0.4 % of it (arXiv 2602.03839). A run that moves few weights is "
        "not inert: RL with SGD earns its reward with 0.02 % of them (arXiv 2602.07729).",
        actions=(
            "Look at hidden weights on the Run dashboard: if there are many, the master weights move and rounding "
            "hides it; the changes will show later, or with a higher learning rate.",
            "If there are none: is the learning rate zero (end of the schedule), are all parameters frozen, or are "
            "all rewards equal, so that advantages vanish?",
            "In pure bfloat16 training, updates that round to nothing are lost for good: keep float32 master weights.",
        ),
    )
