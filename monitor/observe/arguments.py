"""What a user hands to UpdateObserver, checked: each error says what was given and what was expected."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import nn

from monitor.errors import ConfigurationError, shown

# What the service's databases hold.
_MAX_STEP = 2**63 - 1


def check_arguments(model: object, base: object, first_step: object) -> None:
    """Accept what an observer is made from.

    Raises:
        ConfigurationError: one of them is of another type.
    """
    check_model(model)
    if base is not None and not isinstance(base, nn.Module | Mapping):
        raise ConfigurationError(
            f"base is {shown(base)}; expected a frozen torch.nn.Module, or a state dict {{parameter name: tensor}}."
        )
    _whole_number(first_step, "first_step")


def check_model(model: object) -> None:
    """Accept a model.

    Raises:
        ConfigurationError: it is none.
    """
    if not isinstance(model, nn.Module):
        raise ConfigurationError(f"model is {shown(model)}; expected the torch.nn.Module that trains.")


def path_from(given: object, what: str) -> Path:
    """Return what was given as a path.

    Raises:
        ConfigurationError: it is none.
    """
    if not isinstance(given, str | os.PathLike):
        raise ConfigurationError(f"{what} is {shown(given)}; expected a path.")
    return Path(given)


def paths_from(given: object, what: str) -> list[Path]:
    """Return several paths.

    Raises:
        ConfigurationError: it is one path, or no path is among them.
    """
    if isinstance(given, str | os.PathLike) or not isinstance(given, Iterable):
        raise ConfigurationError(f"{what} is {shown(given)}; expected a list of paths.")
    return [path_from(each, f"one of {what}") for each in given]


def check_step(step: object, previous: int) -> int:
    """Return the step of the next observation.

    Raises:
        ConfigurationError: it is no whole number, or does not rise.
    """
    number = _whole_number(step, "step")
    if number <= previous:
        raise ConfigurationError(
            f"step is {number}, and the previous observation was at {previous}; steps must rise. Count on where the "
            "loop starts again, or make another UpdateObserver for another training."
        )
    return number


def _whole_number(value: object, name: str) -> int:
    """Return a whole number, which may be NumPy's."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = -1
    if isinstance(value, bool) or not 0 <= number <= _MAX_STEP:
        raise ConfigurationError(f"{name} is {shown(value)}; expected a whole number of optimizer steps, from 0.")
    return number
