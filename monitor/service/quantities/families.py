"""Every metric that the service exports: the one table that the exposition and its documentation come from."""

from __future__ import annotations

from typing import Literal, NamedTuple

PREFIX = "sparsity_monitor_"


class Family(NamedTuple):
    """One metric.

    Attributes:
        name: as Prometheus sees it.
        kind: its type.
        labels: label names, in order. `run_info` has the user's labels besides.
        help: one sentence, with the unit in the words of the project.
    """

    name: str
    kind: Literal["gauge", "counter", "histogram", "info"]
    labels: tuple[str, ...]
    help: str


_SERVICE = ()
_RUN = ("run",)
_GROUP = ("run", "layer", "module")
_SYNC = ("run", "between")

COUNTS = {
    "changed": "Visible weights that differ from the base, by the run's criterion.",
    "newly_changed": "Visible weights that differ from the base now and did not at the previous observation.",
    "reverted": "Visible weights that differed from the base at the previous observation and do not now.",
    "step_changed": "Visible weights that differ from the previous observation.",
    "touched": "Visible weights that differed from their predecessor at some observation so far.",
    "hidden": "Stored weights that differ from the base although the visible ones do not.",
    "non_finite": "Visible weights that are NaN or infinite.",
    "unmeasured": "Weights that were replaced, given up, or whose base was written to: no count of changes has them.",
}
"""The counts of a group, by the name of their field in an Observation of the wire contract, and what they count."""


def _gauge(name: str, labels: tuple[str, ...], text: str) -> Family:
    return Family(PREFIX + name, "gauge", labels, text)


def _counter(name: str, text: str, labels: tuple[str, ...] = _SERVICE) -> Family:
    return Family(PREFIX + name, "counter", labels, text)


def _counts(level: str, labels: tuple[str, ...], of_what: str) -> list[Family]:
    """The counts of a group, and of a run as a whole, under the same names."""
    reference = (*labels, "reference")
    return [
        _gauge(f"{level}_weights", labels, f"Weights of {of_what}, frozen ones included."),
        _gauge(
            f"{level}_frozen_weights",
            labels,
            f"Weights of {of_what} that were not trained so far, or are unmeasured. All others are what ratios are of.",
        ),
        *(_gauge(f"{level}_{name}_weights", labels, text) for name, text in COUNTS.items()),
        _gauge(f"{level}_reference_weights", reference, "Weights in the reference mask R."),
        _gauge(f"{level}_reference_intersection_weights", reference, "Weights in both update mask and reference mask."),
        _gauge(
            f"{level}_reference_expected_intersection_weights",
            reference,
            "Weights that would be in both masks by chance, stratified by matrix.",
        ),
    ]


FAMILIES: tuple[Family, ...] = (
    *_counts("group", _GROUP, "the group"),
    *_counts("run", _RUN, "the run's model"),
    _gauge(
        "run_changed_at_tolerance_weights",
        ("run", "tolerance"),
        "Visible weights that differ from the base by more than the tolerance.",
    ),
    _gauge(
        "group_sync_changed_weights",
        _GROUP,
        "Visible weights that differ between the latest weight sync of the trainer and the one before.",
    ),
    _gauge(
        "run_sync_changed_weights",
        _SYNC,
        "Visible weights that differ between the latest weight sync of the trainer and the one before (between="
        '"syncs"); where none is known, between the latest two observations (between="observations").',
    ),
    _gauge("run_sync_steps", _SYNC, "Optimizer steps between the two."),
    _gauge(
        "run_sync_sparse_bytes",
        _SYNC,
        "Bytes of these changes: per group, the least of 6k, N/8 + 2k and 2N for k of N 16-bit weights.",
    ),
    _gauge("run_sync_dense_bytes", _SYNC, "Bytes of all visible weights of 16 bits, frozen ones included."),
    _gauge("group_squared_update_norm", _GROUP, "Σ|Δ|² of the visible weights, over finite differences Δ."),
    _gauge("group_squared_base_norm", _GROUP, "Σ|θ₀|² of the trained visible weights of the base, over finite ones."),
    _gauge("run_update_norm", _RUN, "Euclidean norm of the visible update, over finite differences."),
    _gauge("run_base_norm", _RUN, "Euclidean norm of the trained visible weights of the base, over finite ones."),
    _gauge("run_update_max_abs", _RUN, "Largest absolute value of the visible update, over finite differences."),
    _gauge("run_step", _RUN, "Optimizer step of the latest observation."),
    _gauge("run_planned_steps", _RUN, "Optimizer step at which the latest attempt is to end, where the run knows it."),
    _gauge("run_attempt", _RUN, "Latest attempt of the run; it rises when the run is resumed."),
    _gauge("run_stride_steps", _RUN, "Optimizer steps between the latest observation and the one before."),
    _gauge("run_host_seconds", _RUN, "Time that the latest observation took on the training thread, all in all."),
    _gauge(
        "run_device_seconds",
        _RUN,
        "Time that the latest observation read weights; on a CPU a part of run_host_seconds.",
    ),
    _gauge("run_monitor_bytes", _RUN, "Memory that base, masks, previous weights and references take in training."),
    _gauge(
        "run_dropped_items",
        _RUN,
        "Items that the latest attempt lost: spool full or damaged, disk too slow or away, or refused.",
    ),
    _gauge("run_unsent_items", _RUN, "Items in the spool of the latest attempt that are not acknowledged yet."),
    _gauge("run_observations", _RUN, "Stored observations that no later attempt superseded."),
    _gauge(
        "run_thinned_until_step",
        _RUN,
        "Optimizer step up to which the run was thinned: observations were taken out of the store. Only of such runs.",
    ),
    _gauge("run_thinned_every", _RUN, "Up to that step, at least one observation in so many is left."),
    _gauge("run_thinned_observations", _RUN, "Observations that were taken out."),
    _gauge(
        "run_served_differing_groups",
        _RUN,
        "Groups of weights that the engine which generates for the run did not serve as they train when last asked.",
    ),
    _gauge("run_served_groups", _RUN, "Groups of weights of the engine that were compared then."),
    _gauge("run_served_step", _RUN, "Optimizer step whose weights the engine last was found to serve, all of them."),
    _gauge("run_training_metric", ("run", "metric"), "Newest value that the trainer logged under this name."),
    Family(
        PREFIX + "run_info",
        "info",
        (
            "run",
            "name",
            "model",
            "base",
            "base_fingerprint",
            "base_mode",
            "criterion",
            "visible_dtype",
            "stored_dtypes",
        ),
        "What the run is and how it is measured; the user's labels follow as label_NAME.",
    ),
    Family(
        PREFIX + "run_parent_info",
        "info",
        ("run", "parent", "parent_step"),
        "The run and the step that the run branched from; only of runs that did.",
    ),
    _gauge(
        "run_state",
        ("run", "state"),
        "1 for the state that the run is in, 0 for the others: running, stalled, lost, finished, failed, stopped, "
        "preempted.",
    ),
    _gauge(
        "run_last_observation_timestamp_seconds",
        _RUN,
        "When the latest observation was made, by the run's clock less run_clock_ahead_seconds.",
    ),
    _gauge("run_last_heard_timestamp_seconds", _RUN, "When the service last heard of the run, by its own clock."),
    _gauge(
        "run_clock_ahead_seconds",
        _RUN,
        "By how much the clock of the run's machine is ahead of the service's; 0 if by less than a minute, or unknown.",
    ),
    _gauge(
        "run_started_timestamp_seconds",
        _RUN,
        "When the latest attempt started, by the run's clock, or when the service heard of it if that was before.",
    ),
    _gauge("run_rolled_up", _RUN, "1 where the series budget leaves no room for the run's group series."),
    _gauge("rolled_up_runs", _SERVICE, "Runs without group series, because of the series budget."),
    _gauge("series", _SERVICE, "Series of runs and groups that a scrape shows."),
    _gauge("series_budget", _SERVICE, "Series of runs and groups that are allowed before runs are rolled up."),
    _gauge("runs", _SERVICE, "Runs in the store."),
    _gauge(
        "standing_by",
        _SERVICE,
        "1 where this service shows no runs, because another one of its store does or may; see SCALE.md.",
    ),
    Family(
        PREFIX + "store_info",
        "info",
        ("store", "standby"),
        "Which store in a database server the service has or waits for, the same for all services of one store; and "
        "whether it takes over, with --standby.",
    ),
    _gauge("open_streams", _SERVICE, "Streams on which runs report at this moment."),
    _gauge(
        "certificate_expires_timestamp_seconds",
        _SERVICE,
        "When the certificate of the service expires, or the first of those between it and who signed it.",
    ),
    _counter("items_stored_total", "Items that were stored."),
    _counter("items_duplicate_total", "Items that were sent again although they were stored."),
    _counter("items_rejected_total", "Items that can never be stored."),
    _counter(
        "items_removed_total",
        "Stored items that retention removed, by why: deleted by age or by size, or thinned.",
        ("why",),
    ),
    _counter("runs_deleted_total", "Runs that retention deleted, by why: by age or by size.", ("why",)),
    _counter("registrations_total", "Registrations that were accepted, repeated ones included."),
    _counter("heartbeats_total", "Heartbeats that were received."),
    _counter("store_errors_total", "Calls of the store that failed."),
    _counter(
        "background_errors_total",
        "Errors in what the service does beside answering, by work: looking for tokens, certificates, and another "
        "service that has the store (standby), and retention. It is tried again, and the service's log says what.",
        ("work",),
    ),
    _counter("limit_hits_total", "Requests and items that exceeded a limit.", ("limit",)),
    Family(PREFIX + "store_commit_seconds", "histogram", _SERVICE, "Time that a transaction with items took."),
    Family(
        PREFIX + "build_info", "info", ("version", "protocol_version"), "Version of the service and of the protocol."
    ),
    Family(
        PREFIX + "service_info",
        "info",
        ("service_url",),
        "Where browsers find the service; a run's page is at service_url/runs/RUN.",
    ),
)

_BY_NAME = {family.name: family for family in FAMILIES}


def family(name: str) -> Family:
    """Return the metric of that name, given without the prefix."""
    return _BY_NAME[PREFIX + name]


def as_markdown() -> str:
    """Return the table of all metrics for the documentation."""
    rows = [
        f"| `{each.name}` | {each.kind} | {', '.join(f'`{label}`' for label in each.labels) or '–'} | {each.help} |"
        for each in FAMILIES
    ]
    return "\n".join(["| metric | type | labels | meaning |", "|---|---|---|---|", *rows])
