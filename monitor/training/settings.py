"""The settings of SparsityCallback: the one place that names, explains and checks each, and has its default.

Those that UpdateObserver takes, too, are named and explained in monitor/observe/settings.py, and checked here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field, ValidationInfo, field_validator
from pydantic.dataclasses import dataclass

from monitor.errors import ConfigurationError
from monitor.observe.base.mode import parse_base_mode
from monitor.observe.criterion import Criterion, check_tolerances, parse_visible_dtype
from monitor.observe.settings import MeasurementSettings
from monitor.observe.weights.selection import check_patterns
from monitor.report.registration import check_run_id
from monitor.report.spool import DEFAULT_MAX_BYTES
from monitor.report.target import check_target
from monitor.training.base_source import BaseSource, check_base
from monitor.training.on_dense import OnDense, check_on_dense
from monitor.training.references import References, check_references
from monitor.verdict import DenseThresholds


@dataclass(frozen=True, eq=False, config=ConfigDict(arbitrary_types_allowed=True, use_attribute_docstrings=True))
class RunSettings(MeasurementSettings):
    """What can be set about observing and reporting a run; checked when it is given, not while training."""

    target: str | None
    """gRPC address of the service, host:port. None only records; deliver later with `sparsity-monitor push`."""

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
    what it measures, when training starts."""

    every: Annotated[int, Field(ge=1)] = 1
    """Optimizer steps between observations. The last step is always observed."""

    max_overhead: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the training's time that observing may cost, such as 0.01. If it costs more, there are more steps
    between observations. None for no bound."""

    save_mask: bool = True
    """Write the final update mask to the run's directory."""

    strict: bool = False
    """Raise into the training when the monitor fails, and refuse to start when the service does not answer."""

    run_id: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """Identity of the run; by default made up, and kept across resumes. Given, it decides whose training begins; see
    RUNS.md in monitor/training. Trials of a hyperparameter search add their number."""

    directory: str | Path | None = None
    """Where spool and mask are kept; by default `sparsity_monitor` in the output directory."""

    spool_max_bytes: Annotated[int, Field(ge=1 << 20)] = DEFAULT_MAX_BYTES
    """Bound on what is kept for a service that cannot be reached; beyond it the oldest is dropped."""

    on_dense: OnDense = "warn"
    """What to do, once, when updates are dense: "warn" in the log; "stop" the training after this step, with a
    checkpoint; call a function with (args, state, control, **kwargs), as an event of a TrainerCallback is, where kwargs
    also hold `observation` and `verdict`. It is called in every process of a parallel training with the same counts,
    and a flag that it sets in `control` must not depend on more than those. None does nothing. On a GPU, an observation
    is seen one step later. NaN and infinite weights are not dense: they stop nothing, so no good checkpoint is rotated
    away."""

    dense_thresholds: DenseThresholds | None = None
    """When updates are dense; see DenseThresholds, whose defaults hold otherwise."""

    @field_validator("target")
    @classmethod
    def _target(cls, value: str | None) -> str | None:
        return None if value is None else check_target(value)

    @field_validator("labels", mode="before")
    @classmethod
    def _labels(cls, value: object) -> object:
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise ConfigurationError(f"labels is {value!r}; expected {{name: value}}.")
        return {name: str(text) for name, text in value.items()}

    @field_validator("base", mode="plain")
    @classmethod
    def _base(cls, value: object) -> BaseSource | None:
        return check_base(value)

    @field_validator("references", mode="plain")
    @classmethod
    def _references(cls, value: object) -> References | None:
        return None if value is None else check_references(value)

    @field_validator("criterion")
    @classmethod
    def _criterion(cls, value: str) -> str:
        return str(Criterion.parse(value))

    @field_validator("tolerances")
    @classmethod
    def _tolerances(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        return check_tolerances(value)

    @field_validator("visible_dtype")
    @classmethod
    def _visible_dtype(cls, value: str) -> str:
        parse_visible_dtype(value)
        return value

    @field_validator("base_mode")
    @classmethod
    def _base_mode(cls, value: str, info: ValidationInfo) -> str:
        parse_base_mode(value, parse_visible_dtype(info.data.get("visible_dtype", "bfloat16")))
        return value

    @field_validator("include", "exclude")
    @classmethod
    def _patterns(cls, value: tuple[str, ...] | None, info: ValidationInfo) -> tuple[str, ...] | None:
        check_patterns(value or (), str(info.field_name))
        return value

    @field_validator("run_id")
    @classmethod
    def _run_id(cls, value: str | None) -> str | None:
        return None if value is None else check_run_id(value)

    @field_validator("on_dense", mode="before")
    @classmethod
    def _on_dense(cls, value: object) -> OnDense:
        return check_on_dense(value)
