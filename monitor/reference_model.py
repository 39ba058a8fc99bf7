"""The frozen reference model that a trainer holds anyway: a base that costs no copy, where nothing moves it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from transformers import Trainer


def frozen_reference_model(trainer: Trainer) -> nn.Module | None:
    """Return the trainer's reference model; None where it has none, or lets it follow the training.

    TRL does so by `sync_ref_model`, and by its BEMACallback with `update_ref_model`.
    """
    callbacks = trainer.callback_handler.callbacks
    follows = getattr(trainer.args, "sync_ref_model", False) or any(
        getattr(callback, "update_ref_model", False) for callback in callbacks
    )
    return None if follows else getattr(trainer, "ref_model", None)
