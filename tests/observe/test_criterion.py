from __future__ import annotations

import math

import pytest
import torch

from monitor.errors import ConfigurationError
from monitor.observe.criterion import Criterion, check_tolerance, parse_visible_dtype


def test_criteria_are_written_as_they_are_read() -> None:
    assert str(Criterion.parse("bits")) == "bits"
    assert str(Criterion.parse("atol=1e-05")) == "atol=1e-05"
    assert Criterion.parse("atol=0").tolerance == 0.0


@pytest.mark.parametrize("text", ["bit", "rtol=1e-3", "atol", "atol=", "atol=x", ""])
def test_an_unknown_criterion_is_named_with_what_is_expected(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r'expected "bits" or "atol=1e-5"'):
        Criterion.parse(text)


@pytest.mark.parametrize("value", [-1e-9, float("nan"), float("inf"), 1e39])
def test_a_tolerance_that_cannot_work_is_refused(value: float) -> None:
    with pytest.raises(ConfigurationError, match="expected a finite number ≥ 0"):
        check_tolerance(value, "a tolerance")
    with pytest.raises(ConfigurationError, match="expected a finite number ≥ 0"):
        Criterion.parse(f"atol={value}")


@pytest.mark.parametrize("tolerance", [2**-9, 1e-5, 1 / 3, 0.0])
def test_a_criterion_reads_what_it_writes(tolerance: float) -> None:
    assert Criterion.parse(str(Criterion(tolerance))).tolerance == tolerance


def test_minus_zero_is_zero_as_a_tolerance() -> None:
    assert math.copysign(1, check_tolerance(-0.0, "a tolerance")) == 1


@pytest.mark.parametrize("dtype", ["int8", "bf16", torch.float64, ""])
def test_an_unknown_dtype_is_named_with_what_is_expected(dtype: str | torch.dtype) -> None:
    with pytest.raises(ConfigurationError, match="expected one of bfloat16, float16, float32"):
        parse_visible_dtype(dtype)
