"""When alerts fire: every threshold, each with its reason. Those that pages draw as well come from thresholds.py."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from monitor.errors import ConfigurationError
from monitor.service_url import DEFAULT_SERVICE_URL, checked_service_url
from monitor.thresholds import CUMULATIVE_CRITICAL, CUMULATIVE_LOW, STEP_COLLAPSED


class AlertSettings(BaseModel):
    """Thresholds and times of all alerts. Ratios are from 0 to 1, times in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    job: str = Field("sparsity-monitor", description="Prometheus job that scrapes the service.")
    service_url: str = Field(
        DEFAULT_SERVICE_URL, description="Where browsers find the service; `--service-url` gives it, too."
    )
    runbook_url: str = Field(
        "",
        description="Where the runbook can be read, if not on the service's own page, which is gone while the service "
        "is down; the name of the alert is added as #fragment.",
    )

    warmup_steps: int = Field(
        20,
        ge=0,
        description="Learning-rate warm-up is not a steady state: a step at 1e-7 changes 0 % of the weights, one at "
        "1e-5 up to 49.5 % (arXiv 2602.03839).",
    )
    warmup_seconds: int = Field(
        300, ge=0, description="A resumed run starts past the warm-up steps; it gets this long to settle as well."
    )
    hold_seconds: int = Field(
        300, ge=0, description="A condition must last this long: over several observations, not just one."
    )

    cumulative_sparsity_warning: float = Field(
        CUMULATIVE_LOW.value,
        ge=0,
        le=1,
        description="Of ten published checkpoints compared at tolerance 1e-5, one kept less than this (arXiv "
        "2505.11711). By bits, seven of eight did, 0.363 to 0.695 (arXiv 2511.08567): lower it to what earlier runs "
        "of the same recipe show.",
    )
    cumulative_sparsity_critical: float = Field(
        CUMULATIVE_CRITICAL.value,
        ge=0,
        le=1,
        description="Compared by bits, no published RL checkpoint is below 0.363 (ProRL-v2, more than 3000 steps); "
        "published SFT ends at 0.006–0.19 (arXiv 2511.08567), DPO on data far from the policy's own at 0.068–0.077 "
        "(arXiv 2505.11711).",
    )

    step_density_factor: float = Field(
        4,
        gt=1,
        description="A judgement: all published GRPO runs together span a factor of 5.5, 0.2–1.1 % (arXiv "
        "2602.03839), and a run is compared only with its own median.",
    )
    step_density_floor: float = Field(
        # As a person writes it: 1 − 0.975 is a little more in floating point.
        round(1 - STEP_COLLAPSED.value, 12),
        ge=0,
        le=1,
        description="Published GRPO changes at most 2.5 % of the weights within 32 steps, SFT at 2e-5 4.0 % in one "
        "(arXiv 2602.03839): below it, nothing is dense.",
    )
    step_recent_seconds: int = Field(300, ge=1, description="The current value is the median over this time.")
    step_history_seconds: int = Field(
        7200, ge=1, description="The past is the run's own median over this time, its warm-up left out."
    )

    outlier_factor: float = Field(
        3,
        gt=1,
        description="All layers and matrices are similarly sparse in published updates (arXiv 2505.11711, 2507.17107).",
    )
    outlier_density_floor: float = Field(
        0.10,
        ge=0,
        le=1,
        description="Below this, even the densest part is sparser than most published RL checkpoints are as a whole "
        "(arXiv 2505.11711, 2511.08567).",
    )
    outlier_share: float = Field(
        0.001,
        ge=0,
        le=1,
        description="Modules with a smaller share of the trained weights, such as norms, are too small to judge.",
    )

    lift_chance: float = Field(
        1.2,
        gt=0,
        description="Published overlaps are 1.65 (seed) to 2.6 times chance (seed, data and algorithm) (arXiv "
        "2505.11711); 1 is chance.",
    )
    lift_before: float = Field(
        1.5,
        gt=0,
        description="Only an overlap that existed can be lost: a random mask, used as a control, never alerts.",
    )
    lift_history_seconds: int = Field(
        21600, ge=1, description="How far back that overlap may lie, the warm-up left out."
    )

    inert_seconds: int = Field(
        7200, ge=1, description="Nothing visible moved for this long. A step at 1e-7 changes 0 % (arXiv 2602.03839)."
    )
    inert_hidden_factor: int = Field(
        10_000,
        ge=1,
        description="This many hidden weights to each visible one that moved also count as inert. RL with SGD changes "
        "0.02 % of the weights and learns (arXiv 2602.07729): at most 5,000 to one.",
    )
    inert_observations: int = Field(5, ge=1, description="At least this many observations are needed in that time.")

    host_share: float = Field(
        0.05,
        gt=0,
        description="The main complaint about monitoring is its cost: 2.2 to 5.6 s per iteration with one known tool. "
        "This monitor is designed to cost far less than 0.05 of the training thread's time.",
    )
    dropped_seconds: int = Field(1800, ge=1, description="The alert lasts for this long after the last drop.")
    state_hold_seconds: int = Field(
        60,
        ge=0,
        description="How long a stalled or lost state must last; the service has already waited before it says so.",
    )
    lost_seconds: int = Field(
        86400, ge=1, description="A lost run that nobody resumes is old news after a day, and must not alert for ever."
    )
    down_seconds: int = Field(120, ge=0, description="Restarting the service takes seconds and loses nothing.")
    certificate_seconds: int = Field(
        1209600,
        ge=1,
        description="Renewing programs begin about a month before the end: two weeks are left to find out why not.",
    )

    @field_validator("service_url")
    @classmethod
    def _is_service_url(cls, url: str) -> str:
        return checked_service_url(url)

    @model_validator(mode="after")
    def _warns_before_it_is_critical(self) -> Self:
        if self.cumulative_sparsity_critical > self.cumulative_sparsity_warning:
            raise ValueError(
                f"cumulative_sparsity_critical is {self.cumulative_sparsity_critical:g}; expected at most "
                f"cumulative_sparsity_warning, which is {self.cumulative_sparsity_warning:g}"
            )
        return self

    def runbook_of(self, alert: str) -> str:
        """Return the address of an alert's chapter in the runbook."""
        return f"{self.runbook_url or f'{self.service_url}/runbook'}#{alert.lower()}"

    @classmethod
    def read(cls, path: Path | None, service_url: str | None = None) -> AlertSettings:
        """Return the settings in a YAML file, the defaults without one.

        Args:
            service_url: instead of what the file says.

        Raises:
            ConfigurationError: it cannot be read, or has a value that cannot work.
        """
        settings = cls() if path is None else cls._of_file(path)
        if service_url is None:
            return settings
        return settings.model_copy(update={"service_url": checked_service_url(service_url)})

    @classmethod
    def _of_file(cls, path: Path) -> AlertSettings:
        try:
            return cls.model_validate(yaml.safe_load(path.read_text("utf-8")) or {})
        except (OSError, yaml.YAMLError, ValidationError) as error:
            known = ", ".join(cls.model_fields)
            raise ConfigurationError(f"{path} holds no alert settings: {error}. Known settings: {known}") from error
