"""What counts as changed, and in which dtype weights are compared."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from monitor.errors import ConfigurationError, shown

VISIBLE_DTYPES: dict[str, torch.dtype] = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}


def parse_visible_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """Return the dtype that weights are rounded to before they are compared.

    >>> parse_visible_dtype("bfloat16")
    torch.bfloat16

    Raises:
        ConfigurationError: `dtype` is none of bfloat16, float16, float32.
    """
    name = dtype_name(dtype) if isinstance(dtype, torch.dtype) else dtype
    if not isinstance(name, str) or name not in VISIBLE_DTYPES:
        expected = ", ".join(VISIBLE_DTYPES)
        raise ConfigurationError(
            f"visible_dtype is {shown(dtype)}; expected one of {expected}. "
            "Give the dtype that the trained model will be served in."
        )
    return VISIBLE_DTYPES[name]


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name without "torch.", such as "bfloat16"."""
    return str(dtype).removeprefix("torch.")


def visible(weights: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return `weights` as they will be served: rounded to `dtype`, to nearest even."""
    return weights.to(dtype)


def check_tolerance(tolerance: float, setting: str) -> float:
    """Return `tolerance` as a float.

    Raises:
        ConfigurationError: it is negative, infinite or not a number, also in float32.
    """
    try:
        # −0 becomes 0: kernels compare bit patterns.
        value = float(tolerance) + 0.0
    except (TypeError, ValueError):
        value = math.nan
    if not 0 <= value <= torch.finfo(torch.float32).max:
        raise ConfigurationError(
            f"{setting} is {shown(tolerance)}; expected a finite number ≥ 0, such as 1e-5 (arXiv 2505.11711)."
        )
    return value


def check_tolerances(tolerances: Sequence[float]) -> tuple[float, ...]:
    """Return the tolerances, each as `check_tolerance` does.

    Raises:
        ConfigurationError: one is no tolerance, or is there twice.
    """
    if isinstance(tolerances, str) or not isinstance(tolerances, Iterable):
        raise ConfigurationError(f"tolerances is {shown(tolerances)}; expected a list of numbers, such as [1e-5].")
    checked = tuple(check_tolerance(tolerance, "a tolerance") for tolerance in tolerances)
    if len(set(checked)) < len(checked):
        raise ConfigurationError(f"tolerances are {list(tolerances)}; expected each one once.")
    return checked


@dataclass(frozen=True)
class Criterion:
    """When a visible weight counts as changed against the base.

    `bits` (tolerance None): the values differ. −0 equals +0, and NaN always counts as changed. For bfloat16 this is the
    relative probe η = 1e-3 of arXiv 2511.08567.
    `atol=τ`: the values differ by more than τ, subtracted in float32, with τ rounded to float32.
    """

    tolerance: float | None = None

    @classmethod
    def parse(cls, text: str | Criterion) -> Criterion:
        """Read "bits" or "atol=1e-5".

        >>> Criterion.parse("atol=1e-5")
        Criterion(tolerance=1e-05)

        Raises:
            ConfigurationError: `text` is neither, or the tolerance is negative.
        """
        if isinstance(text, Criterion):
            return text
        if text == "bits":
            return cls()
        kind, _, number = text.partition("=") if isinstance(text, str) else ("", "", "")
        try:
            tolerance = float(number)
        except ValueError:
            tolerance = None
        if kind != "atol" or tolerance is None:
            raise ConfigurationError(f'criterion is {shown(text)}; expected "bits" or "atol=1e-5".')
        return cls(check_tolerance(tolerance, f"the tolerance of criterion {text!r}"))

    def __str__(self) -> str:
        return "bits" if self.tolerance is None else f"atol={self.tolerance!r}"
