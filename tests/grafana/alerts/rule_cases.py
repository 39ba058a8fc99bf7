"""For each alert: what a healthy run looks like, what has to be different for it to fire, and what almost is."""

from __future__ import annotations

from dataclasses import dataclass, field

RUN = 'job="sparsity-monitor", instance="s", run="r"'
IDENTITY = {"job": "sparsity-monitor", "instance": "s", "run": "r"}
MEASURED_AS = {**IDENTITY, "name": "grpo", "criterion": "bits", "visible_dtype": "bfloat16"}
NAMED = {**IDENTITY, "name": "grpo"}

Series = dict[str, str]
"""Series → values, in promtool's notation, one per minute."""


def run(name: str, /, **labels: str) -> str:
    more = "".join(f', {label}="{value}"' for label, value in labels.items())
    return f"sparsity_monitor_{name}{{{RUN}{more}}}"


def always(value: float) -> str:
    return f"{value}x300"


def _groups(changed: int = 20) -> Series:
    """Four layers of two modules, 100 weights each."""
    series = {}
    for layer in ("00", "01", "02", "03"):
        for module in ("mlp", "attn"):
            series[run("group_weights", layer=layer, module=module)] = always(100)
            series[run("group_frozen_weights", layer=layer, module=module)] = always(0)
            series[run("group_changed_weights", layer=layer, module=module)] = always(changed)
            series[run("group_step_changed_weights", layer=layer, module=module)] = always(1)
    return series


HEALTHY: Series = {
    'up{job="sparsity-monitor", instance="s"}': always(1),
    'sparsity_monitor_rolled_up_runs{job="sparsity-monitor", instance="s"}': always(0),
    run("run_info", name="grpo", criterion="bits", visible_dtype="bfloat16", model="m"): always(1),
    run("run_state", state="running"): always(1),
    run("run_state", state="stalled"): always(0),
    run("run_state", state="lost"): always(0),
    run("run_state", state="finished"): always(0),
    run("run_started_timestamp_seconds"): always(0),
    run("run_last_heard_timestamp_seconds"): "0+60x300",
    run("run_step"): "0+10x300",
    run("run_stride_steps"): always(1),
    run("run_host_seconds"): always(0.001),
    run("run_device_seconds"): always(0.01),
    run("run_weights"): always(800),
    run("run_frozen_weights"): always(0),
    run("run_changed_weights"): always(160),
    run("run_step_changed_weights"): always(8),
    run("run_non_finite_weights"): always(0),
    run("run_dropped_items"): always(0),
    run("run_reference_weights", reference="seed"): always(200),
    run("run_reference_intersection_weights", reference="seed"): always(80),
    run("run_reference_expected_intersection_weights", reference="seed"): always(40),
    **_groups(),
}
"""80 % cumulative sparsity, 99 % step sparsity, twice chance, ten steps a minute."""

ADAPTERS: Series = {run("run_weights"): always(80_000), run("run_frozen_weights"): always(79_200)}
"""The same trained weights in a model of which 99 % are frozen, as with LoRA on one projection."""

FINISHED: Series = {run("run_state", state="running"): always(0), run("run_state", state="finished"): always(1)}
STOPPED: Series = {run("run_state", state="running"): always(0), run("run_state", state="stopped"): always(1)}
PREEMPTED: Series = {run("run_state", state="running"): always(0), run("run_state", state="preempted"): always(1)}
WARMING_UP: Series = {run("run_step"): always(19)}
RESUMED: Series = {run("run_started_timestamp_seconds"): always(7190)}


@dataclass(frozen=True)
class Case:
    """One alert.

    Attributes:
        labels: of the alert that fires, besides severity and service.
        fires: what differs from a healthy run, so that it fires at `minute`.
        silent: by what they show, differences with which it stays silent.
    """

    alert: str
    severity: str
    labels: dict[str, str]
    summary: str
    description: str
    fires: Series
    silent: dict[str, Series] = field(default_factory=dict)
    minute: int = 120


def _without(fires: Series, **more: Series) -> dict[str, Series]:
    """The same trouble in runs that are left in peace."""
    return {
        "finished": {**fires, **FINISHED},
        "stopped": {**fires, **STOPPED},
        "preempted": {**fires, **PREEMPTED},
        "warming up": {**fires, **WARMING_UP},
        "just resumed": {**fires, **RESUMED},
        **{name.replace("_", " "): series for name, series in more.items()},
    }


_LOW = {run("run_changed_weights"): always(320)}
_CRITICAL = {run("run_changed_weights"): always(600)}
_COLLAPSED = {run("run_step_changed_weights"): "8x110 80x190"}
# Starts at minute 100 with ten minutes of learning-rate warm-up, and is as it is meant to be from then on.
_RISING = {
    run("run_started_timestamp_seconds"): always(6000),
    run("run_step"): "_x100 0+2x10 30+10x190",
    run("run_step_changed_weights"): "_x100 0x10 80x190",
}
_FROZEN = [(layer, module) for layer in ("00", "01", "02") for module in ("mlp", "attn")]
_LAYER = {run("group_changed_weights", layer="02", module=module): always(90) for module in ("mlp", "attn")}
_FROZEN_LAYERS = {
    **{run("group_frozen_weights", layer=layer, module=module): always(100) for layer, module in _FROZEN},
    **{run("group_changed_weights", layer=layer, module=module): always(0) for layer, module in _FROZEN},
    **{run("group_changed_weights", layer="03", module=module): always(50) for module in ("mlp", "attn")},
}
_MODULE = {
    **{run("group_weights", layer=layer, module="norm"): always(100) for layer in ("00", "01", "02", "03")},
    **{run("group_frozen_weights", layer=layer, module="norm"): always(0) for layer in ("00", "01", "02", "03")},
    **{run("group_changed_weights", layer=layer, module="mlp"): always(90) for layer in ("00", "01", "02", "03")},
    **{run("group_changed_weights", layer=layer, module="norm"): always(20) for layer in ("00", "01", "02", "03")},
}
_SMALL_MODULE = {
    run("group_weights", layer="00", module="norm"): always(0.5),
    run("group_frozen_weights", layer="00", module="norm"): always(0),
    run("group_changed_weights", layer="00", module="norm"): always(0.5),
}
_AT_CHANCE = {run("run_reference_intersection_weights", reference="seed"): "80x60 42x240"}
# By chance the first few weights lie in the reference mask.
_AT_CHANCE_SINCE_WARMUP = {
    run("run_started_timestamp_seconds"): always(6000),
    run("run_step"): "_x100 0+2x5 30+10x195",
    run("run_reference_intersection_weights", reference="seed"): "_x100 80x5 42x195",
}
_INERT = {run("run_step_changed_weights"): always(0)}
# Float32 master weights, nearly all of which moved by less than bfloat16 shows.
_HIDDEN = {
    run("run_weights"): always(10_000_000),
    run("run_hidden_weights"): always(9_000_000),
    run("run_changed_weights"): always(900),
    run("run_step_changed_weights"): always(50),
}
# As RL with SGD is published to learn, arXiv 2602.07729.
_LIKE_SGD = {**_HIDDEN, run("run_hidden_weights"): always(9_998_000), run("run_changed_weights"): always(2_000)}
_DROPPED = {run("run_dropped_items"): "0x110 5x190"}
_EXPENSIVE = {run("run_host_seconds"): always(0.6)}
_DIFFERING = run("run_served_differing_groups")
_CERTIFICATE = 'sparsity_monitor_certificate_expires_timestamp_seconds{job="sparsity-monitor", instance="s"}'
_SERVED_STALE = {_DIFFERING: "0x100 4x200"}
_NAN = {run("run_non_finite_weights"): "0x119 3x190"}

_RUN = "Run grpo (r)"
_MEASURED = "(criterion bits, bfloat16)"


def service(instance: str, *, up: str, store: str = "7f3a", standing_by: int = 0, standby: bool = True) -> Series:
    """A service of a store in a database server: what it exports is there while it is up."""
    known = f'job="sparsity-monitor", instance="{instance}"'
    exported = up.replace("0x", "stale _x")
    info = f'sparsity_monitor_store_info{{{known}, store="{store}", standby="{str(standby).lower()}"}}'
    return {
        f"up{{{known}}}": up,
        info: exported,
        f"sparsity_monitor_standing_by{{{known}}}": exported.replace("1x", f"{standing_by}x"),
    }


_DOWN = "1x110 0x190"
_UP = always(1)
_SERVICE = {"job": "sparsity-monitor", "instance": "s"}
_DOWN_TEXTS = (
    "The sparsity-monitor service cannot be scraped",
    "Prometheus gets no metrics from job sparsity-monitor. Runs continue and keep their observations on their own "
    "disks, but nobody sees them, and no alert about a run can fire.",
)

CASES = [
    Case(
        "NonFiniteWeights",
        "critical",
        MEASURED_AS,
        f"{_RUN} has weights that are NaN or infinite",
        "3 visible weights (bfloat16) are NaN or infinite. Training from here on is wasted.",
        _NAN,
        {"finished": {**_NAN, **FINISHED}},
    ),
    Case(
        "CumulativeSparsityCritical",
        "critical",
        MEASURED_AS,
        f"{_RUN} is denser than any published RL run",
        f"Cumulative sparsity is 25% of the trained weights {_MEASURED}, below 35 %. Published RL checkpoints keep "
        "36–96 %, supervised fine-tuning 0.6–19 %.",
        _CRITICAL,
        _without(_CRITICAL, merely_low=_LOW, mostly_frozen_and_sparse=ADAPTERS),
    ),
    Case(
        "CumulativeSparsityCritical",
        "critical",
        MEASURED_AS,
        f"{_RUN} is denser than any published RL run",
        f"Cumulative sparsity is 25% of the trained weights {_MEASURED}, below 35 %. Published RL checkpoints keep "
        "36–96 %, supervised fine-tuning 0.6–19 %.",
        {**_CRITICAL, **ADAPTERS},
    ),
    Case(
        "CumulativeSparsityLow",
        "warning",
        MEASURED_AS,
        f"{_RUN} has changed more than 30 % of its trained weights",
        f"Cumulative sparsity is 60% of the trained weights {_MEASURED}, below 70 %. Published RL checkpoints keep "
        "36–96 %.",
        _LOW,
        _without(_LOW, short={run("run_changed_weights"): "160x117 320x190"}, mostly_frozen_and_sparse=ADAPTERS),
    ),
    Case(
        "CumulativeSparsityLow",
        "warning",
        MEASURED_AS,
        f"{_RUN} has changed more than 30 % of its trained weights",
        f"Cumulative sparsity is 60% of the trained weights {_MEASURED}, below 70 %. Published RL checkpoints keep "
        "36–96 %.",
        {**_LOW, **ADAPTERS},
    ),
    Case(
        "StepSparsityCollapsed",
        "warning",
        MEASURED_AS,
        f"{_RUN} suddenly changes far more weights per observation",
        "10% of the trained visible weights change from one observation to the next, more than 4 times this run's own "
        "recent median (step density, bfloat16).",
        {**_COLLAPSED, **ADAPTERS},
    ),
    Case(
        "StepSparsityCollapsed",
        "warning",
        MEASURED_AS,
        f"{_RUN} suddenly changes far more weights per observation",
        "10% of the trained visible weights change from one observation to the next, more than 4 times this run's own "
        "recent median (step density, bfloat16).",
        _COLLAPSED,
        _without(
            _COLLAPSED,
            always_as_dense={run("run_step_changed_weights"): always(80)},
            after_a_warm_up=_RISING,
            still_sparse={run("run_step_changed_weights"): "2x110 16x190"},
        ),
    ),
    Case(
        "LayerFarDenser",
        "warning",
        {**MEASURED_AS, "layer": "02"},
        f"{_RUN} changes layer 02 far more than the others",
        f"Cumulative density of layer 02 is 90% {_MEASURED}, more than 3 times the median layer that this run trains.",
        _LAYER,
        _without(_LAYER, all_layers_alike=_groups(90), the_others_are_frozen=_FROZEN_LAYERS),
    ),
    Case(
        "ModuleFarDenser",
        "warning",
        {**MEASURED_AS, "module": "mlp"},
        f"{_RUN} changes module mlp far more than the others",
        f"Cumulative density of module mlp is 90% {_MEASURED}, more than 3 times the median module that this run "
        "trains.",
        _MODULE,
        _without(_MODULE, too_small_to_judge=_SMALL_MODULE),
    ),
    Case(
        "OverlapAtChance",
        "warning",
        {**MEASURED_AS, "reference": "seed"},
        f"{_RUN} no longer lands where reference seed did",
        "Overlap with reference seed is 1.05 times what chance would give. It was above 1.5 before; published runs "
        "reach 1.65 to 2.6.",
        _AT_CHANCE,
        _without(
            _AT_CHANCE,
            by_chance_during_the_warm_up=_AT_CHANCE_SINCE_WARMUP,
            a_random_mask={run("run_reference_intersection_weights", reference="seed"): always(40)},
        ),
    ),
    Case(
        "UpdatesInert",
        "warning",
        MEASURED_AS,
        f"{_RUN} trains, but no visible weight moves",
        "Training continues, but for as long as this alert looks back, not one visible weight (bfloat16) has changed "
        "between observations, or next to none while the stored ones move.",
        _HIDDEN,
        _without(_HIDDEN, as_with_SGD=_LIKE_SGD),
        minute=126,
    ),
    Case(
        "UpdatesInert",
        "warning",
        MEASURED_AS,
        f"{_RUN} trains, but no visible weight moves",
        "Training continues, but for as long as this alert looks back, not one visible weight (bfloat16) has changed "
        "between observations, or next to none while the stored ones move.",
        _INERT,
        _without(
            _INERT,
            one_moved={run("run_step_changed_weights"): "0x60 1x1 0x240"},
            no_steps={**_INERT, run("run_step"): always(50)},
            young={**_INERT, run("run_started_timestamp_seconds"): always(3600)},
        ),
        minute=126,
    ),
    Case(
        "ServedWeightsStale",
        "critical",
        MEASURED_AS,
        f"{_RUN} trains on what other weights generate",
        "When last asked, the engine that generates for the run served 4 groups of weights otherwise than they are "
        "trained.",
        _SERVED_STALE,
        {
            "finished": {**_SERVED_STALE, **FINISHED},
            "stopped": {**_SERVED_STALE, **STOPPED},
            "preempted": {**_SERVED_STALE, **PREEMPTED},
            "fresh": {_DIFFERING: always(0)},
            "mended at once": {_DIFFERING: "0x117 4x1 0x180"},
            "compared": {run("run_served_groups"): always(4)},
        },
    ),
    Case(
        "ServiceDown",
        "critical",
        _SERVICE,
        *_DOWN_TEXTS,
        {'up{job="sparsity-monitor", instance="s"}': _DOWN},
        {
            "restarted": {'up{job="sparsity-monitor", instance="s"}': "1x118 0 1x180"},
            # It shows nothing of the runs, and is well.
            "beside one that stands by": service("t", up=_UP, standing_by=1),
            "of a pair that goes on": {**service("s", up=_DOWN), **service("t", up=_UP)},
            "only one of the pair was started with --standby": {
                **service("s", up=_DOWN, standby=False),
                **service("t", up=_UP),
            },
            "of two pairs that go on": {
                **service("s", up=_DOWN),
                **service("t", up=_UP),
                **service("u", up=_UP, store="c0de"),
                **service("v", up=_DOWN, store="c0de"),
            },
        },
    ),
    Case(
        "ServiceDown",
        "critical",
        _SERVICE,
        *_DOWN_TEXTS,
        # Both serve, each a store of its own.
        {**service("s", up=_DOWN), **service("t", up=_UP, store="c0de")},
    ),
    Case(
        "ServiceDown",
        "critical",
        _SERVICE,
        *_DOWN_TEXTS,
        # The other one does not get the store.
        {**service("s", up=_DOWN), **service("t", up=_UP, standing_by=1)},
    ),
    Case(
        "ServiceDown",
        "critical",
        _SERVICE,
        *_DOWN_TEXTS,
        # It had the store of the pair until it was given one of its own.
        {
            **service("s", up=_DOWN, store="c0de"),
            'sparsity_monitor_store_info{job="sparsity-monitor", instance="s", store="7f3a", standby="true"}': "1x50",
            **service("t", up=_UP),
        },
    ),
    Case(
        "NobodyServes",
        "critical",
        {"job": "sparsity-monitor", "store": "7f3a"},
        "No service of a sparsity-monitor store serves: all stand by",
        "All services of store 7f3a that can be scraped stand by. Runs continue and keep their observations on their "
        "own disks, but nobody sees them, and no alert about a run can fire.",
        {
            **service("s", up=_UP, standing_by=1),
            **service("t", up=_UP, standing_by=1),
            **service("u", up=_UP, store="c0de"),
        },
        {
            "one serves": {**service("s", up=_UP, standing_by=1), **service("t", up=_UP)},
            "while one takes over": {
                **service("s", up=_UP),
                'sparsity_monitor_standing_by{job="sparsity-monitor", instance="s"}': "0x118 1x1 0x180",
            },
            "of a store in a file": {},
        },
    ),
    Case(
        "NobodyTakesOver",
        "warning",
        {**_SERVICE, "store": "7f3a", "standby": "true"},
        "Of a pair of sparsity-monitor services, only one is left",
        "s serves store 7f3a, and no other service of it can be scraped. Nothing is unseen, but when this one ends, "
        "nobody takes over.",
        {**service("s", up=_UP), **service("t", up=_DOWN), **service("u", up=_UP, store="c0de", standby=False)},
        {
            "both are there": {**service("s", up=_UP), **service("t", up=_UP, standing_by=1)},
            "it expects no other one": service("s", up=_UP, standby=False),
            "the other one is restarted": {**service("s", up=_UP), **service("t", up="1x114 0x3 1x180")},
        },
    ),
    Case(
        "RunLost",
        "critical",
        {**NAMED, "state": "lost"},
        f"{_RUN} is lost: nothing has been heard from it",
        "Neither observations nor heartbeats arrive, and the run did not report that it ended. It was killed, or its "
        "machine or its network is down.",
        {run("run_state", state="lost"): always(1), run("run_last_heard_timestamp_seconds"): always(3600)},
        {
            "a day later": {
                run("run_state", state="lost"): always(1),
                run("run_last_heard_timestamp_seconds"): always(-86400),
            }
        },
    ),
    Case(
        "RunStalled",
        "warning",
        {**NAMED, "state": "stalled"},
        f"{_RUN} is stalled: alive, but without observations",
        "The uploader is alive, but no observation has arrived for far longer than this run ever paused.",
        {run("run_state", state="stalled"): always(1), run("run_state", state="running"): always(0)},
        {"finished": FINISHED, "stopped": STOPPED, "preempted": PREEMPTED},
    ),
    Case(
        "ObservationsDropped",
        "warning",
        MEASURED_AS,
        f"{_RUN} dropped observations",
        "5 items were lost: the spool beside the run was full or damaged, its disk too slow or away, or the service "
        "refused them. The run's history has a gap.",
        _DROPPED,
        {
            "finished": {**_DROPPED, **FINISHED},
            "an hour ago": {run("run_dropped_items"): "0x60 5x240"},
            "a new attempt": {run("run_dropped_items"): "5x110 0x190"},
            "half an hour after a scrape that failed": {run("run_dropped_items"): "5x89 stale 5x209"},
            "after an outage of the service": {run("run_dropped_items"): "5x60 stale _x50 5x189"},
        },
    ),
    Case(
        "ObservationsDropped",
        "warning",
        MEASURED_AS,
        f"{_RUN} dropped observations",
        "3 items were lost: the spool beside the run was full or damaged, its disk too slow or away, or the service "
        "refused them. The run's history has a gap.",
        {run("run_dropped_items"): "5x110 0x5 3x185"},
    ),
    Case(
        "ObservationsDropped",
        "warning",
        MEASURED_AS,
        f"{_RUN} dropped observations",
        "3 items were lost: the spool beside the run was full or damaged, its disk too slow or away, or the service "
        "refused them. The run's history has a gap.",
        # During an outage of the service.
        {run("run_dropped_items"): "5x60 stale _x50 8x189"},
    ),
    Case(
        "MonitorTooExpensive",
        "warning",
        MEASURED_AS,
        f"{_RUN} spends too much time being monitored",
        "Observing takes 10% of the training thread's time, more than 5 %.",
        _EXPENSIVE,
        _without(_EXPENSIVE, rarely_observed={**_EXPENSIVE, run("run_stride_steps"): always(10)}),
    ),
    Case(
        "SeriesBudgetExceeded",
        "warning",
        {"job": "sparsity-monitor", "instance": "s"},
        "Runs are shown without their layers because of the series budget",
        "2 runs have no series per layer and module on s: all of them together would exceed the series budget. "
        "Totals per run are complete.",
        {'sparsity_monitor_rolled_up_runs{job="sparsity-monitor", instance="s"}': always(2)},
        {"for a moment": {'sparsity_monitor_rolled_up_runs{job="sparsity-monitor", instance="s"}': "0x117 2x190"}},
    ),
    Case(
        "CertificateExpiresSoon",
        "warning",
        {"job": "sparsity-monitor", "instance": "s"},
        "The certificate of the sparsity-monitor service expires soon",
        "The certificate of s expires in 10d 0h 0m 0s. From then on no training delivers, nobody reads the pages, and "
        "Prometheus cannot scrape over TLS.",
        {_CERTIFICATE: always(7200 + 10 * 86400)},
        {
            "fresh": {_CERTIFICATE: always(7200 + 15 * 86400)},
            "renewed at once": {_CERTIFICATE: f"{7200 + 15 * 86400}x117 {7200 + 10 * 86400} {7200 + 90 * 86400}x180"},
        },
    ),
]
