"""Where the base comes from: the user, the trainer's frozen reference model, a checkpoint, or the model as it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from monitor.errors import BaseMismatchError, ConfigurationError, shown
from monitor.observe.base.weights import holds_the_same
from monitor.observe.ranks import Ranks
from monitor.observe.weights.adapters import served_by

if TYPE_CHECKING:
    from transformers import Trainer, TrainingArguments

BaseSource = str | Path | nn.Module | Mapping[str, torch.Tensor]


class Base(NamedTuple):
    """The base of a run.

    Attributes:
        weights: None for the model's own, as they are now.
        source: what they came from, for people: a directory, a hub id, or "initial weights".
    """

    weights: nn.Module | Mapping[str, torch.Tensor] | None
    source: str


def check_base(given: object) -> BaseSource | None:
    """Return what a base can be read from.

    Raises:
        ConfigurationError: it is nothing of that kind.
    """
    if given is None or isinstance(given, str | Path | nn.Module | Mapping):
        return given
    raise ConfigurationError(
        f"base is {shown(given)}; expected a directory or hub id, a module, or a state dict {{parameter name: tensor}}."
    )


def refuse_a_moving_base(given: BaseSource | None, args: TrainingArguments) -> None:
    """Refuse a base that follows the training.

    Raises:
        ConfigurationError: a module is given while the trainer synchronises its reference model.
    """
    if isinstance(given, nn.Module) and getattr(args, "sync_ref_model", False):
        raise ConfigurationError(
            "base is a module and sync_ref_model is on: if that module is the trainer's ref_model, it follows the "
            "training and cannot be the base. Leave `base` out, or give a state dict, which is copied before training."
        )


def frozen_reference_model(trainer: Trainer) -> nn.Module | None:
    """Return the trainer's reference model; None if it has none, or updates it during training.

    TRL updates it with `sync_ref_model`, and with its BEMACallback's `update_ref_model`.
    """
    callbacks = trainer.callback_handler.callbacks
    is_updated = getattr(trainer.args, "sync_ref_model", False) or any(
        getattr(callback, "update_ref_model", False) for callback in callbacks
    )
    return None if is_updated else getattr(trainer, "ref_model", None)


def find_base(
    model: nn.Module, given: BaseSource | None, reference_model: nn.Module | None, ranks: Ranks, *, resumed: bool
) -> Base:
    """Return the base, and where it comes from.

    Args:
        given: what the user gave as the base.
        reference_model: a frozen model that the trainer holds; it is the base if its weights equal the model's.
        resumed: the model has trained before, so that its weights are not those that training started with.

    Raises:
        BaseMismatchError: the base has to be read, and cannot be.
    """
    own_name = str(getattr(model, "name_or_path", ""))
    if isinstance(given, str | Path):
        return Base(_read_again(model, str(given)), str(given))
    if given is not None:
        return Base(given, str(getattr(given, "name_or_path", "") or "given weights"))
    if resumed and not served_by(model).holds_base:
        return Base(_read_again(model, own_name), own_name)
    # Decided together: a process that took another base would run other collectives from here on.
    if reference_model is not None and ranks.all_say(ranks.all_or_none(lambda: holds_the_same(reference_model, model))):
        return Base(reference_model, own_name or "reference model")
    return Base(None, own_name or "initial weights")


def _read_again(model: nn.Module, source: str) -> Mapping[str, torch.Tensor]:
    try:
        # Here, because a loop of one's own may have no transformers.
        from monitor.training.pretrained import read_pretrained
    except ModuleNotFoundError as error:
        raise BaseMismatchError(
            f"cannot read the base again without {error.name}, which is not installed. Give the weights that this "
            "training started from as `base`, as a module or a state dict."
        ) from None
    return read_pretrained(model, source)
