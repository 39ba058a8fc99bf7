"""The model that a checkpoint is of, without weights: its parameters' own names and order, and which are tied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from monitor.errors import CheckpointError


@dataclass(frozen=True)
class Skeleton:
    """A model on the meta device, built from a configuration by transformers.

    Attributes:
        model: the model.
        shapes: clean name → shape of each parameter once, in the model's order.
        tied: other name → the name above, of parameters that are the same.
        buffers: names of what is in a checkpoint and is no parameter.
    """

    model: Any
    shapes: dict[str, tuple[int, ...]]
    tied: dict[str, str]
    buffers: frozenset[str]

    @classmethod
    def of(cls, model: nn.Module) -> Skeleton:
        """Return the names of a model's parameters."""
        shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
        first: dict[int, str] = {}
        tied = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            other = first.setdefault(id(parameter), name)
            if other != name:
                tied[name] = other
        return cls(model, shapes, tied, frozenset(name for name, _ in model.named_buffers()))


def skeleton_of(configuration: Mapping[str, Any], architecture: str | None = None) -> Skeleton | None:
    """Return the skeleton of the model that `config.json` describes; None where transformers has none of its name.

    Args:
        configuration: what is in the file.
        architecture: the class to build; by default the one in the file.

    Raises:
        CheckpointError: the configuration is not one of this architecture.
    """
    import transformers

    named = configuration.get("architectures") or [None]
    kind = getattr(transformers, str(architecture or named[0]), None)
    if kind is None or not hasattr(kind, "config_class"):
        return None
    try:
        with torch.device("meta"):
            model = kind(kind.config_class.from_dict(dict(configuration)))
        model.tie_weights()
    except Exception as error:
        raise CheckpointError(
            f"transformers {transformers.__version__} cannot build a {kind.__name__} from config.json: "
            f"{' '.join(str(error).split()) or type(error).__name__}. "
            "Use the version of transformers that the checkpoint was saved with."
        ) from error
    return Skeleton.of(model)
