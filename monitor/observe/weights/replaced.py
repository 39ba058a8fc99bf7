"""Finds the parameters of a model again after some were replaced: by the same name, laid out in the same way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn

from monitor.observe.ranks import Ranks
from monitor.observe.weights.adapters import Served, layers_of, served_by
from monitor.observe.weights.measured import MeasuredWeights
from monitor.observe.weights.names import clean_name
from monitor.observe.weights.placement import place, stands_in
from monitor.observe.weights.presence import is_there
from monitor.observe.weights.selection import Selection


@dataclass(frozen=True)
class FoundAgain:
    """What a model has now in the places of its parameters.

    Attributes:
        parameters: name → the parameter from now on; None for those that are gone.
        placed: name → what this process measures of it.
        gone: name → what happened, of those that cannot be measured any more.
    """

    parameters: dict[str, nn.Parameter | None]
    placed: dict[str, MeasuredWeights]
    gone: dict[str, str]


def find_again(
    model: nn.Module, then: Mapping[str, nn.Parameter | None], placed: Mapping[str, MeasuredWeights], ranks: Ranks
) -> FoundAgain:
    """Look for the parameters of a model where they are now. All processes must call this.

    Args:
        model: the model.
        then: its parameters as they were found last, by clean name.
        placed: what this process measures of each, or would.
        ranks: the processes that train together.

    Raises:
        UnsupportedModelError: the model holds weights in a way now that cannot be measured rightly.
    """
    served, now = ranks.all_or_none(lambda: _compare(model, then, placed))
    names = list(then)
    exchanged = {name: now.get(name, then[name]) for name in ranks.anywhere(now, names)}
    without = ranks.anywhere([name for name, p in exchanged.items() if not _has_weights(p)], names)
    with_weights = {name: p for name, p in exchanged.items() if p is not None and name not in without}
    fresh = {w.name: w for w in place(model, Selection(with_weights, {}, served), ranks)}
    elsewhere = [name for name in exchanged if name not in fresh or not _same_layout(fresh[name], placed[name])]
    gone = {
        name: _what_happened(exchanged[name], placed[name], fresh.get(name))
        for name in ranks.anywhere(elsewhere, names)
    }
    parameters = {name: None if name in gone else exchanged.get(name, parameter) for name, parameter in then.items()}
    # Of what is gone the old tensor is not held any longer.
    found = {name: replace(placed[name], held=_nothing) if name in gone else fresh[name] for name in exchanged}
    return FoundAgain(parameters, {**placed, **found}, gone)


def _has_weights(parameter: torch.Tensor | None) -> bool:
    return parameter is not None and is_there(parameter.to_local() if hasattr(parameter, "to_local") else parameter)


def _nothing() -> torch.Tensor:
    return torch.empty(0, device="cpu")


def _compare(
    model: nn.Module, then: Mapping[str, nn.Parameter | None], placed: Mapping[str, MeasuredWeights]
) -> tuple[Served, dict[str, nn.Parameter | None]]:
    """Return what the model serves now, and what it has in the places of what is not there any more."""
    served = served_by(model)
    # Tied parameters go by each of their names: they may have been tied since.
    by_name = {clean_name(name): p for name, p in model.named_parameters(remove_duplicate=False)} | served.parameters
    modules = {id(module) for module in model.modules()}
    exchanged: dict[str, nn.Parameter | None] = {}
    for name, parameter in then.items():
        now, weights = by_name.get(name), placed[name]
        in_place = now is parameter or stands_in(now, parameter, model)
        in_place |= weights.dequantised is not None and name in served.dequantised
        adapted_alike = (weights.effective is None) == (name not in served.effective)
        layers_there = all(id(layer) in modules for layer in layers_of(weights.effective))
        if parameter is None or not (in_place and adapted_alike and layers_there):
            exchanged[name] = now
    return served, exchanged


def _same_layout(now: MeasuredWeights, then: MeasuredWeights) -> bool:
    layouts = [(w.shape, w.bounds, w.start, w.stop, w.source.device) for w in (now, then)]
    return layouts[0] == layouts[1]


def _what_happened(parameter: torch.Tensor | None, then: MeasuredWeights, now: MeasuredWeights | None) -> str:
    if parameter is None:
        return "no longer in the model"
    if now is None:
        return "replaced by one without weights"
    if now.shape != then.shape:
        return f"of shape {list(now.shape)} instead of {list(then.shape)}"
    return "spread over processes or devices in another way"
