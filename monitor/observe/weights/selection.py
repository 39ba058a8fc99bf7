"""Which parameters of a model are measured, which are frozen, and which are left out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from monitor.errors import ConfigurationError, UnsupportedModelError, name_some, shown
from monitor.observe.user_warning import warn_user
from monitor.observe.weights.adapters import Served, served_by


@dataclass(frozen=True)
class Selection:
    """Parameters by clean name, in the model's order; tied parameters appear once.

    A parameter that adapters change counts as trainable, though its own tensor is frozen; see adapters.Served.
    """

    trainable: dict[str, nn.Parameter]
    frozen: dict[str, nn.Parameter]
    served: Served

    @property
    def device(self) -> torch.device:
        """Where the first trainable parameter is."""
        return next(iter(self.trainable.values())).device


def select_parameters(
    model: nn.Module, include: Sequence[str] | None = None, exclude: Sequence[str] | None = None
) -> Selection:
    """Choose by regular expressions that are searched for in the parameter names.

    Parameters that are not floating point, such as quantised ones, are named in a warning and left out.

    Raises:
        ConfigurationError: a pattern is no regular expression or matches no parameter, or nothing trainable is left.
        UnsupportedModelError: a parameter has no data of its own here (meta device, sharded), or is made by adapters
            of a kind that is not known here.
    """
    served = served_by(model)
    parameters = served.parameters
    included = _matching(parameters, include, "include") if include else set(parameters)
    excluded = _matching(parameters, exclude, "exclude") if exclude else set()
    chosen = {name: parameter for name, parameter in parameters.items() if name in included - excluded}
    _check_supported(chosen)
    not_float = [name for name, parameter in chosen.items() if not _is_floating_point(parameter)]
    if not_float:
        warn_user(f"not floating point, so not measured: {name_some(not_float)}")
    measured = {name: parameter for name, parameter in chosen.items() if name not in not_float}
    trainable = {name: p for name, p in measured.items() if p.requires_grad or name in served.effective}
    if not trainable:
        raise ConfigurationError(
            f"nothing to measure: of {len(parameters)} parameters, include={include!r} and exclude={exclude!r} leave "
            f"{len(measured)} with floating-point weights, and none of these requires gradients."
        )
    return Selection(trainable, {name: p for name, p in measured.items() if name not in trainable}, served)


def _is_floating_point(parameter: nn.Parameter) -> bool:
    # Weights that torchao quantised say that they are what they are dequantised to.
    return parameter.is_floating_point() and not type(parameter).__module__.startswith("torchao.")


def check_patterns(patterns: Sequence[str], setting: str) -> None:
    """Accept regular expressions.

    Raises:
        ConfigurationError: one is none; the message names it and the setting.
    """
    if isinstance(patterns, str):
        raise ConfigurationError(
            f"{setting} is the string {patterns!r}; expected a list of regular expressions, such as [{patterns!r}]."
        )
    if not isinstance(patterns, Iterable):
        raise ConfigurationError(f"{setting} is {shown(patterns)}; expected a list of regular expressions.")
    for pattern in patterns:
        try:
            re.compile(pattern)
        except TypeError:
            raise ConfigurationError(f"{setting} has {shown(pattern)}; expected regular expressions as text.") from None
        except re.error as error:
            raise ConfigurationError(f"{setting} has {pattern!r}, which is no regular expression: {error}.") from error


def _matching(parameters: dict[str, nn.Parameter], patterns: Sequence[str], setting: str) -> set[str]:
    check_patterns(patterns, setting)
    matching = set()
    for pattern in patterns:
        found = {name for name in parameters if re.search(pattern, name)}
        if not found:
            raise ConfigurationError(
                f"{setting} has {pattern!r}, which matches none of the {len(parameters)} parameters; they have names "
                f"like {name_some(list(parameters), limit=3)}."
            )
        matching |= found
    return matching


def _check_supported(parameters: dict[str, nn.Parameter]) -> None:
    on_meta = [name for name, parameter in parameters.items() if parameter.is_meta]
    if on_meta:
        raise UnsupportedModelError(
            f"on the meta device, so without weights: {name_some(on_meta)}. Load the weights before monitoring starts."
        )
