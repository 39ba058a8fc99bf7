"""What a user can set about observing and reporting a run, checked when it is given, not while training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from monitor.errors import ConfigurationError
from monitor.observe.base.mode import parse_base_mode
from monitor.observe.criterion import Criterion, check_tolerance, parse_visible_dtype
from monitor.observe.weights.selection import check_patterns
from monitor.report.spool import DEFAULT_MAX_BYTES
from monitor.report.target import check_target
from monitor.training.on_dense import OnDense, check_on_dense
from monitor.verdict import DenseThresholds


class RunSettings(BaseModel):
    """Settings of SparsityCallback; see there for their meaning."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    target: str | None
    run_name: str | None = None
    run_id: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    labels: dict[str, str] = {}
    criterion: str = "bits"
    tolerances: tuple[float, ...] = ()
    visible_dtype: str = "bfloat16"
    base_mode: str = "auto"
    every: Annotated[int, Field(ge=1)] = 1
    max_overhead: Annotated[float, Field(gt=0, le=1)] | None = None
    include: tuple[str, ...] | None = None
    exclude: tuple[str, ...] | None = None
    step_masks: bool = True
    save_mask: bool = True
    strict: bool = False
    directory: Path | None = None
    spool_max_bytes: Annotated[int, Field(ge=1 << 20)] = DEFAULT_MAX_BYTES
    on_dense: OnDense = "warn"
    dense_thresholds: DenseThresholds = DenseThresholds()

    @classmethod
    def check(cls, **settings: Any) -> RunSettings:
        """Return the settings.

        Raises:
            ConfigurationError: one has a value that cannot work; the message names it.
        """
        try:
            return cls(**settings)
        except ValidationError as error:
            raise ConfigurationError("; ".join(_describe(details) for details in error.errors())) from error

    @field_validator("target")
    @classmethod
    def _target(cls, value: str | None) -> str | None:
        return None if value is None else check_target(value)

    @field_validator("run_id")
    @classmethod
    def _run_id(cls, value: str | None) -> str | None:
        # As the service wants it.
        if value is not None and (not value.strip() or not value.isprintable() or "/" in value or value in (".", "..")):
            raise ConfigurationError(f"run_id is {value!r}; expected printable characters without '/'.")
        return value

    @field_validator("labels", mode="before")
    @classmethod
    def _labels(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            raise ConfigurationError(f"labels is {value!r}; expected {{name: value}}.")
        return {name: str(text) for name, text in value.items()}

    @field_validator("criterion")
    @classmethod
    def _criterion(cls, value: str) -> str:
        return str(Criterion.parse(value))

    @field_validator("visible_dtype")
    @classmethod
    def _visible_dtype(cls, value: str) -> str:
        parse_visible_dtype(value)
        return value

    @field_validator("on_dense", mode="before")
    @classmethod
    def _on_dense(cls, value: object) -> OnDense:
        return check_on_dense(value)

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

    @field_validator("tolerances")
    @classmethod
    def _tolerances(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(value)) < len(value):
            raise ConfigurationError(f"tolerances are {list(value)}; expected each one once.")
        return tuple(check_tolerance(tolerance, "a tolerance") for tolerance in value)


def _describe(details: Any) -> str:
    if isinstance(error := details.get("ctx", {}).get("error"), ConfigurationError):
        return str(error)
    where = ".".join(str(part) for part in details["loc"])
    return f"{where} is {details['input']!r}: {details['msg']}"
