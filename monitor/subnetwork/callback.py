"""SubnetworkCallback: a Trainer trains only the weights inside a mask."""

from __future__ import annotations

import logging
import os
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from monitor.errors import ConfigurationError, SparsityMonitorError, name_some
from monitor.observe.masks.file import MaskFile
from monitor.observe.masks.mask import UpdateMask
from monitor.subnetwork.contents import open_mask
from monitor.subnetwork.subnetwork import Subnetwork
from monitor.training.told import size, tell

logger = logging.getLogger(__name__)

# The entry among the state's `stateful_callbacks`. Not the name of a callback class: the Trainer would try to rebuild
# that callback from it.
STATE_KEY = "sparsity_monitor_subnetwork"


class SubnetworkCallback(TrainerCallback):  # type: ignore[misc]
    """Trains, in a Trainer of transformers or TRL, only the weights inside a mask.

    Use `callbacks=[SubnetworkCallback("update_mask.safetensors")]`, beside a SparsityCallback or without. Gradients
    outside the mask are zero, for clipping too (arXiv 2505.11711), and weights outside stay, bit for bit, what they are
    when training begins. A training that is resumed has to be given the same mask.

    Args:
        mask: which weights train: an UpdateMask, or the path of its file, as the update_mask.safetensors of a run. It
            must cover every trainable parameter.

    Raises:
        ConfigurationError: the mask is none.
        MaskFileError: the file is not one that holds a mask.
    """

    def __init__(self, mask: UpdateMask | MaskFile | str | os.PathLike[str]) -> None:
        self._mask: UpdateMask | MaskFile = open_mask(mask)
        self._subnetwork: Subnetwork | None = None
        self._steps = 0

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy has: the mask."""
        return self.__dict__ | {"_subnetwork": None}

    @property
    def subnetwork(self) -> Subnetwork | None:
        """What guards the training that is under way, or was the last; None before the first."""
        return self._subnetwork

    def close(self) -> None:
        """Let the model train in full again. Needed only after a training that raised."""
        if self._subnetwork is not None:
            self._subnetwork.close()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keep the weights outside the mask from now on.

        Raises:
            ConfigurationError: the checkpoint is of a training with another mask, or the optimizer cannot be guarded.
            MaskMismatchError: the mask does not fit the model.
            UnsupportedModelError: the model holds its weights in a way in which they cannot be kept.
        """
        self.close()
        known = state.stateful_callbacks.get(STATE_KEY, {}).get("attributes", {}).get("mask")
        resumed = state.global_step > 0
        self._subnetwork = Subnetwork(kwargs["model"], self._mask, kwargs["optimizer"], resumed=resumed)
        identity = self._subnetwork.mask_identity
        if known not in (None, identity):
            self.close()
            raise ConfigurationError(
                f"the checkpoint is of a training with another mask (identity {known}, here {identity}). Resume it "
                "with that mask; or, for another subnetwork, start from its weights without resume_from_checkpoint."
            )
        state.stateful_callbacks[STATE_KEY] = {"args": {}, "attributes": {"mask": identity}}
        self._steps = 0
        if state.is_world_process_zero:
            begins = "from the checkpoint of a training of all weights, " if resumed and not known else ""
            tell([f"subnetwork: {begins}{self._subnetwork.described()}"], quiet=False)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """See that the step went through what keeps the weights, and say once what that saves.

        Raises:
            SparsityMonitorError: it did not, so that weights outside the mask may have moved.
        """
        subnetwork = self._subnetwork
        if subnetwork is None:
            return
        if subnetwork.steps == self._steps and not getattr(kwargs["optimizer"], "step_was_skipped", False):
            raise SparsityMonitorError(
                f"step {state.global_step} was not made by the optimizer that the Trainer had when training began, so "
                "weights outside the mask may have moved. Leave out what replaces or bypasses it."
            )
        if self._steps == 0 and subnetwork.steps and state.is_world_process_zero:
            kept, full = subnetwork.state_bytes
            if kept < full:
                each = " in each process" if args.world_size > 1 else ""
                tell(
                    [f"subnetwork: the optimizer's state takes {size(kept)} instead of {size(full)}{each}"], quiet=False
                )
        self._steps = subnetwork.steps

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Let the model train in full again, and see that no weight outside the mask has moved."""
        if self._subnetwork is None:
            return
        self._subnetwork.close()
        if moved := self._subnetwork.moved():
            logger.error(
                "sparsity-monitor: weights outside the mask are not those that training began with, in %s: something "
                "else than the optimizer has written to them, such as another callback.",
                name_some(moved),
            )
