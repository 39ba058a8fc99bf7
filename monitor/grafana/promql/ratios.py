"""The ratios: sparsity always with its kind, overlap with what chance gives. Recorded by Prometheus, or written out.

Of the trained weights, unless the name says otherwise: frozen ones cannot move, and would make anything look sparse.

Dashboards and Grafana-managed alerts write them out, so that they need nothing but the scrape; Prometheus' own alerts
read what its recording rules have recorded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from monitor.grafana.promql.metric import NOTHING, Matchers, braces, metric


class Level(StrEnum):
    """What a ratio is about: the labels that it keeps, besides job and instance."""

    RUN = "run"
    LAYER = "run_layer"
    MODULE = "run_module"
    GROUP = "run_layer_module"


_ADDED_UP = {Level.LAYER: "module", Level.MODULE: "layer"}


def count(level: Level, name: str, matchers: Matchers = NOTHING) -> str:
    """Return a count at a level; those of layers and modules are added up from the groups.

    >>> count(Level.LAYER, "changed_weights")
    'sum without (module) (sparsity_monitor_group_changed_weights)'
    """
    if level is Level.RUN:
        return metric(f"run_{name}", matchers)
    of_groups = metric(f"group_{name}", matchers)
    return f"sum without ({_ADDED_UP[level]}) ({of_groups})" if level in _ADDED_UP else of_groups


@dataclass(frozen=True)
class Ratio:
    """A formula over counts.

    Attributes:
        name: in the words of the project.
        formula: PromQL with the counts in braces, by their names in the metrics.
    """

    name: str
    formula: str

    def at(self, level: Level, matchers: Matchers = NOTHING) -> str:
        """Write the ratio out in PromQL."""
        return self.formula.format_map(_Counts(level, matchers))

    def record(self, level: Level) -> str:
        """Return the name under which Prometheus records it: level, metric, operation."""
        return f"{level}:sparsity_monitor_{self.name}:ratio"


class _Counts(dict[str, str]):
    def __init__(self, level: Level, matchers: Matchers) -> None:
        self._of = (level, matchers)

    def __missing__(self, name: str) -> str:
        level, matchers = self._of
        return count(level, name, matchers)


# Counts of the mask itself have no label `reference`; > 0 leaves out what cannot be divided by.
_PER_MASK = "/ ignoring (reference) group_left () ({changed_weights} > 0)"

# From two metrics that every version of the service exports: charts reach back to before it was updated.
_TRAINED = "({weights} - {frozen_weights} > 0)"

# There are unmeasured weights in few runs only, and no series of them elsewhere.
_MEASURED = "({weights} - ({unmeasured_weights} or 0 * {weights}) > 0)"

TRAINED = Ratio("trained", _TRAINED)
"""No ratio but what they are of: the number of trained weights, nothing where there are none."""

CUMULATIVE_SPARSITY = Ratio("cumulative_sparsity", f"1 - {{changed_weights}} / {_TRAINED}")
STEP_SPARSITY = Ratio("step_sparsity", f"1 - {{step_changed_weights}} / {_TRAINED}")
CUMULATIVE_SPARSITY_AT_TOLERANCE = Ratio(
    "cumulative_sparsity_at_tolerance",
    f"1 - {{changed_at_tolerance_weights}} / ignoring (tolerance) group_left () {_TRAINED}",
)
WHOLE_MODEL_CUMULATIVE_SPARSITY = Ratio("whole_model_cumulative_sparsity", f"1 - {{changed_weights}} / {_MEASURED}")
CHANGED = Ratio("changed", f"{{changed_weights}} / {_TRAINED}")
TOUCHED = Ratio("touched", f"{{touched_weights}} / {_TRAINED}")
TRANSIENT = Ratio("transient", f"({{touched_weights}} - {{changed_weights}}) / {_TRAINED}")
HIDDEN = Ratio("hidden", f"{{hidden_weights}} / {_TRAINED}")
CHANGED_RATIO = Ratio("changed_ratio", f"{{sync_changed_weights}} / ignoring (between) group_left () {_TRAINED}")
TRAINED_SHARE = Ratio("trained_share", "1 - {frozen_weights} / ({weights} > 0)")
OVERLAP_O1 = Ratio("reference_overlap_o1", "{reference_intersection_weights} " + _PER_MASK)
OVERLAP_O2 = Ratio("reference_overlap_o2", "{reference_intersection_weights} / ({reference_weights} > 0)")
CHANCE_O1 = Ratio("reference_chance_o1", "{reference_expected_intersection_weights} " + _PER_MASK)
CHANCE_O2 = Ratio("reference_chance_o2", "{reference_expected_intersection_weights} / ({reference_weights} > 0)")
JACCARD = Ratio(
    "reference_jaccard",
    "{reference_intersection_weights} / ({reference_weights} - {reference_intersection_weights} + ignoring "
    "(reference) group_left () {changed_weights} > 0)",
)
LIFT = Ratio("reference_lift", "{reference_intersection_weights} / ({reference_expected_intersection_weights} > 0)")


def relative_norm(level: Level, matchers: Matchers = NOTHING) -> str:
    """Return ‖Δ‖ ÷ ‖θ₀‖ at a level: of layers and modules from the sums of squares of their groups."""
    if level is Level.RUN:
        return f"{metric('run_update_norm', matchers)} / ({metric('run_base_norm', matchers)} > 0)"
    update, base = (count(level, f"squared_{each}_norm", matchers) for each in ("update", "base"))
    return f"sqrt({update} / ({base} > 0))"


def as_indices(matchers: Matchers = NOTHING) -> str:
    """Return the bytes of a transfer of the changed weights of 16 bits as indices and values."""
    return _where_known(f"6 * {count(Level.RUN, 'sync_changed_weights', matchers)}", matchers)


def as_bitmask(matchers: Matchers = NOTHING) -> str:
    """Return the bytes of a transfer of the changed weights of 16 bits as a bit per weight and values."""
    changed, weights = (count(Level.RUN, name, matchers) for name in ("sync_changed_weights", "weights"))
    return _where_known(f"2 * {changed} + ignoring (between) group_left () {weights} / 8", matchers)


def bitmask_from(matchers: Matchers = NOTHING) -> str:
    """Return the changed ratio from which a bitmask takes fewer bytes than indices: 6k = N/8 + 2k at k = N/32.

    N are all weights, since all have a bit; a changed ratio is of the trained ones.
    """
    return _of_trained("1 / 32", matchers)


def dense_from(matchers: Matchers = NOTHING) -> str:
    """Return the changed ratio from which sending all weights takes the fewest bytes: N/8 + 2k = 2N at k = 15N/16.

    Nothing where that many weights do not train.
    """
    return f"{_of_trained('15 / 16', matchers)} <= 1"


def _of_trained(share: str, matchers: Matchers) -> str:
    return f"{share} * {count(Level.RUN, 'weights', matchers)} / {TRAINED.at(Level.RUN, matchers)}"


def _where_known(expr: str, matchers: Matchers) -> str:
    """Leave out the runs whose transfers are not known in bytes."""
    return f"{expr} and {metric('run_sync_dense_bytes', matchers)}"


def z_score(matchers: Matchers = NOTHING) -> str:
    """Return how many standard deviations the overlap of a run lies from the one that chance gives.

    By chance, the |M| changed weights of a group lie anywhere among its n trained ones, of which |R| are in the mask:
    hypergeometric, of variance |M| · |R|/n · (1 − |R|/n) · (n − |M|)/(n − 1). Variances of groups add up. A group of
    several matrices is taken for one, although the expected overlap is that of each matrix.
    """
    changed, trained = count(Level.GROUP, "changed_weights", matchers), TRAINED.at(Level.GROUP, matchers)
    in_mask = f"{count(Level.GROUP, 'reference_weights', matchers)} / ignoring (reference) group_left () {trained}"
    per_mask = "ignoring (reference) group_left ()"
    spread = f"{changed} * ({trained} - {changed}) / ({trained} - 1)"
    variance = f"({in_mask}) * (1 - {in_mask}) * {per_mask} ({spread})"
    observed = count(Level.GROUP, "reference_intersection_weights", matchers)
    expected = count(Level.GROUP, "reference_expected_intersection_weights", matchers)
    added_up = "sum without (layer, module)"
    return f"{added_up} ({observed} - {expected}) / sqrt({added_up} ({variance}) > 0)"


# Time of the training thread, and of the device, out of all time: seconds per step times steps per second.
HOST_SHARE = Ratio(
    "host_share", "avg_over_time({host_seconds}[10m]) / avg_over_time({stride_steps}[10m]) * deriv({step}[10m])"
)
DEVICE_SHARE = Ratio(
    "device_share", "avg_over_time({device_seconds}[10m]) / avg_over_time({stride_steps}[10m]) * deriv({step}[10m])"
)

_OVERLAPS = (OVERLAP_O1, OVERLAP_O2, CHANCE_O1, CHANCE_O2, JACCARD, LIFT)

RECORDED: Mapping[Ratio, tuple[Level, ...]] = {
    CUMULATIVE_SPARSITY: tuple(Level),
    STEP_SPARSITY: tuple(Level),
    WHOLE_MODEL_CUMULATIVE_SPARSITY: (Level.RUN,),
    **dict.fromkeys(_OVERLAPS, (Level.RUN, Level.LAYER, Level.MODULE)),
    HOST_SHARE: (Level.RUN,),
    DEVICE_SHARE: (Level.RUN,),
}
"""What Prometheus records, at which levels."""


class Reading(Protocol):
    """How an alert gets at a ratio."""

    def now(self, ratio: Ratio, level: Level, matchers: Matchers = NOTHING) -> str:
        """Return an expression of its present value."""

    def over(self, ratio: Ratio, level: Level, seconds: int) -> str:
        """Return an expression of its values over the time up to now."""


class Recorded:
    """Reads what Prometheus has recorded."""

    def now(self, ratio: Ratio, level: Level, matchers: Matchers = NOTHING) -> str:
        return ratio.record(level) + braces(matchers)

    def over(self, ratio: Ratio, level: Level, seconds: int) -> str:
        return f"{ratio.record(level)}[{seconds}s]"


class WrittenOut:
    """Needs no recording rules: the same, from the metrics themselves."""

    def now(self, ratio: Ratio, level: Level, matchers: Matchers = NOTHING) -> str:
        return f"({ratio.at(level, matchers)})"

    def over(self, ratio: Ratio, level: Level, seconds: int) -> str:
        return f"({ratio.at(level)})[{seconds}s:]"
