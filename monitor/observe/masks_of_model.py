"""The masks of an observed model on their way out and back: copied to host memory, written to files, taken up again.

All processes call the same methods, with the same arguments, when nothing reads the weights or writes to the masks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from monitor.observe.criterion import dtype_name
from monitor.observe.followed import FollowedModel
from monitor.observe.kernels.contract import Rules
from monitor.observe.masks.file import MaskMetadata
from monitor.observe.masks.mask import UpdateMask
from monitor.observe.masks.touched_files import read_shards, write_shards
from monitor.observe.masks.whole import save_whole_mask, whole_mask


class MasksOfModel:
    """Makes copies and files of a model's masks.

    Args:
        model: what is measured, and its masks.
        rules: how weights are compared.
        base_fingerprint: names the base.
    """

    def __init__(self, model: FollowedModel, rules: Rules, base_fingerprint: str) -> None:
        self._model = model
        self._rules = rules
        self._base_fingerprint = base_fingerprint

    def copy(self, words: Mapping[str, torch.Tensor], step: int) -> UpdateMask:
        """Return the mask of the whole model, as `whole_mask` does."""
        roster = self._model.roster
        return whole_mask(words, roster.measured, self._metadata(step), roster.ranks)

    def write(self, path: Path | None, words: Mapping[str, torch.Tensor], step: int, run_id: str) -> None:
        """Write the mask of the whole model, as `save_whole_mask` does."""
        roster = self._model.roster
        save_whole_mask(path, words, roster.measured, self._metadata(step, run_id), roster.ranks)

    def write_touched(self, directory: Path, step: int) -> None:
        """Write which weights were touched so far, each process what it measures; nothing where that is not known."""
        roster, touched = self._model.roster, self._model.state.touched
        if touched is not None:
            write_shards(directory, roster.ranks, touched, roster.measured, vars(self._metadata(step)))

    def take_up_touched(self, directories: Sequence[Path], step: int) -> bool:
        """Go on from what `write_touched` wrote at a step into the first of the directories that has it.

        Returns:
            whether one has, or nothing is known of it here.
        """
        state, ranks = self._model.state, self._model.roster.ranks
        if state.touched is None:
            return True
        shards = ranks.all_or_none(lambda: self._read_touched(directories, step))
        # Decided together, so that none of the model is counted in another way than the rest.
        found = ranks.all_say(shards is not None)
        state.restore_touched(shards if found and shards is not None else {})
        return found

    def _read_touched(self, directories: Sequence[Path], step: int) -> dict[str, torch.Tensor] | None:
        roster, metadata = self._model.roster, vars(self._metadata(step))
        found = (read_shards(path, roster.ranks, roster.measured, metadata) for path in directories)
        return next((shards for shards in found if shards is not None), None)

    def _metadata(self, step: int, run_id: str = "") -> MaskMetadata:
        return MaskMetadata(
            criterion=str(self._rules.criterion),
            visible_dtype=dtype_name(self._rules.visible_dtype),
            base_fingerprint=self._base_fingerprint,
            step=step,
            run_id=run_id,
        )
