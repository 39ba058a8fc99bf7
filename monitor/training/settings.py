"""The settings of SparsityCallback and monitor.watch: the one place that names, explains and checks each, and has its
default.

Those that UpdateObserver takes, too, are named and explained in monitor/observe/settings.py, and checked here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, fields
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field, ValidationInfo, field_validator
from pydantic.dataclasses import dataclass

from monitor.environment import variable
from monitor.errors import ConfigurationError, shown
from monitor.limits import Limits, check_identity, check_run_id, check_size, shorten
from monitor.observe.base.mode import parse_base_mode
from monitor.observe.criterion import Criterion, check_tolerances, dtype_name, parse_visible_dtype
from monitor.observe.settings import MeasurementSettings
from monitor.observe.weights.selection import check_patterns
from monitor.report.messages.registration import checked_labels
from monitor.report.spool.items import DEFAULT_MAX_BYTES
from monitor.report.target import check_target
from monitor.training.base_source import BaseSource, check_base
from monitor.training.on_dense import OnDense, check_on_dense
from monitor.training.references import References, check_references
from monitor.verdict import DenseThresholds


@dataclass(frozen=True, eq=False, config=ConfigDict(arbitrary_types_allowed=True, use_attribute_docstrings=True))
class RunSettings(MeasurementSettings):
    """What can be set about observing and reporting a run; checked when it is given, not while training."""

    target: str | None = Field(default="", validate_default=True)
    """gRPC address of the service, host:port. None only records; deliver later with `sparsity-monitor push`. By default
    what the environment variable SPARSITY_MONITOR_TARGET says; one of the two has to."""

    run_name: str | None = None
    """Name for people; by default the trainer's run_name, else the output directory's name."""

    _: KW_ONLY

    labels: Mapping[str, str] | None = None
    """Such as {"algorithm": "GRPO", "dataset": "gsm8k", "seed": "0"}; they become labels of the metrics."""

    base: BaseSource | None = Field(default=None, repr=False)
    """Weights that updates are measured against: a directory or hub id, a frozen module (used in place), or a state
    dict. By default the weights at the start of training; when resuming, they are read again from the model's
    `name_or_path`. With adapters it is the frozen weights below them, which the model holds."""

    references: References | None = Field(default=None, repr=False)
    """Name → update mask of another run, or its file; the overlap with each is counted. Of a file, each process reads
    what it measures, when training starts. Or a structural mask that is made of the base: "lowest:0.1", the tenth of
    each parameter that has the smallest magnitudes, or "random:0.1", a tenth anywhere, as the control."""

    every: Annotated[int, Field(ge=1)] = 1
    """Optimizer steps between observations. The last step is always observed."""

    max_overhead: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the training's time that observing may cost, such as 0.01. If it costs more, there are more steps
    between observations. None for no bound."""

    save_mask: bool = True
    """Write the final update mask to the run's directory."""

    strict: bool = False
    """Raise into the training when the monitor fails, and refuse to start when the service does not answer."""

    quiet: bool = False
    """Print nothing: what is said at the start and at the end, such as what is measured and where to look, goes to the
    log at level INFO instead of standard error."""

    run_id: str | None = None
    """Identity of the run; by default made up, and kept across resumes. Given, it decides whose training begins; see
    RUNS.md in monitor/training. Trials of a hyperparameter search add their number."""

    directory: str | Path | None = None
    """Where spool and mask are kept; by default `sparsity_monitor` in the output directory."""

    spool_max_bytes: Annotated[int, Field(ge=1 << 20)] = DEFAULT_MAX_BYTES
    """Bound on what is kept for a service that cannot be reached; beyond it, it is thinned out."""

    on_dense: OnDense = "warn"
    """What to do, once, when updates are dense: "warn" in the log; "stop" the training after this step, with a
    checkpoint; call a function with (args, state, control, **kwargs), as an event of a TrainerCallback is, where kwargs
    also hold `observation` and `verdict`. It is called in every process of a parallel training with the same counts,
    and a flag that it sets in `control` must not depend on more than those. None does nothing. On a GPU, an observation
    is seen one step later. NaN and infinite weights are not dense: they stop nothing, so no good checkpoint is rotated
    away."""

    dense_thresholds: DenseThresholds | None = None
    """When updates are dense; see DenseThresholds, whose defaults hold otherwise."""

    @field_validator("target", mode="before")
    @classmethod
    def _target(cls, value: object) -> str | None:
        if value is None:
            return None
        if not value:
            raise ConfigurationError(
                'no target is given: target="localhost:50051" reports to the service there, target=None only records. '
                f"Or set the environment variable {variable('target')}."
            )
        if not isinstance(value, str):
            raise ConfigurationError(
                f"target is {shown(value)}; expected the gRPC address of the service as text, such as "
                '"localhost:50051", or None to record only. The trainer tells the callback everything else.'
            )
        return check_target(value)

    @field_validator("labels", mode="before")
    @classmethod
    def _labels(cls, value: object) -> object:
        if value is None:
            return None
        labels, limits = checked_labels(value), Limits.in_force()
        check_size(len(labels), f"{len(labels)} labels are given", "max_labels", limits)
        return {name: shorten(text, limits.max_label_length) for name, text in labels.items()}

    @field_validator("base", mode="plain")
    @classmethod
    def _base(cls, value: object) -> BaseSource | None:
        return check_base(value)

    @field_validator("references", mode="plain")
    @classmethod
    def _references(cls, value: object) -> References | None:
        if value is None:
            return None
        references, limits = check_references(value), Limits.in_force()
        check_size(len(references), f"{len(references)} reference masks are given", "max_references", limits)
        for name in references:
            check_identity(name, "the name of a reference mask", limits)
        return references

    @field_validator("criterion", mode="before")
    @classmethod
    def _criterion(cls, value: str) -> str:
        return str(Criterion.parse(value))

    @field_validator("tolerances", mode="before")
    @classmethod
    def _tolerances(cls, value: Sequence[float]) -> tuple[float, ...]:
        tolerances = check_tolerances(value)
        said = f"{len(tolerances)} tolerances are given"
        check_size(len(tolerances), said, "max_tolerances", Limits.in_force())
        return tolerances

    @field_validator("visible_dtype", mode="before")
    @classmethod
    def _visible_dtype(cls, value: str) -> str:
        return dtype_name(parse_visible_dtype(value))

    @field_validator("base_mode", mode="before")
    @classmethod
    def _base_mode(cls, value: str, info: ValidationInfo) -> str:
        parse_base_mode(value, parse_visible_dtype(info.data.get("visible_dtype", "bfloat16")))
        return value

    @field_validator("include", "exclude", mode="before")
    @classmethod
    def _patterns(cls, value: Sequence[str] | None, info: ValidationInfo) -> Sequence[str] | None:
        if value is not None:
            check_patterns(value, str(info.field_name))
        return value

    @field_validator("run_id", mode="before")
    @classmethod
    def _run_id(cls, value: str | None) -> str | None:
        if value is not None:
            check_run_id(value, Limits.in_force())
        return value

    @field_validator("dense_thresholds", mode="before")
    @classmethod
    def _dense_thresholds(cls, value: object) -> object:
        known = [field.name for field in fields(DenseThresholds)]
        if isinstance(value, Mapping) and (unknown := [name for name in value if name not in known]):
            raise ConfigurationError(f"dense_thresholds has {shown(unknown[0])}; expected some of {', '.join(known)}.")
        return value

    @field_validator("on_dense", mode="before")
    @classmethod
    def _on_dense(cls, value: object) -> OnDense:
        return check_on_dense(value)
