"""Subnetwork: trains the weights inside a mask in any PyTorch loop, and nothing outside of it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from typing import Any, Self

import torch
from torch import nn

from monitor.errors import ConfigurationError, MaskMismatchError, shown
from monitor.observe.base.fingerprint import identify
from monitor.observe.base.weights import find
from monitor.observe.criterion import parse_visible_dtype
from monitor.observe.masks.file import MaskFile
from monitor.observe.masks.mask import UpdateMask
from monitor.observe.masks.references import ReferenceMask
from monitor.observe.ranks import Ranks, join_ranks
from monitor.observe.user_warning import warn_user
from monitor.observe.weights.roster import Roster
from monitor.percent import percent
from monitor.subnetwork.contents import Contents, open_mask
from monitor.subnetwork.coverage import Coverage, Inside
from monitor.subnetwork.gradients import mask_gradient_of
from monitor.subnetwork.guarded import GuardedOptimizer
from monitor.subnetwork.outside import OutsideWeights
from monitor.subnetwork.refusals import refuse_model
from monitor.subnetwork.watch import watch

logger = logging.getLogger(__name__)


class Subnetwork:
    """Trains only the weights inside a mask; the others stay, bit for bit, what they are now.

    Make it when the model is wrapped (DDP, FSDP2, DeepSpeed) and its optimizers are made, on every process. The loop
    stays as it is: the gradients of each backward pass and the steps of the optimizers are hooked into. Call `close()`
    when the model is to train in full again.

    >>> model = nn.Linear(2, 2, bias=False)
    >>> optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    >>> mask = UpdateMask.from_bools({"weight": torch.tensor([[True, False], [False, False]])})
    >>> before = model.weight.detach().clone()
    >>> with Subnetwork(model, mask, optimizer):
    ...     model(torch.ones(1, 2)).sum().backward()
    ...     optimizer.step()
    >>> (model.weight != before).tolist()
    [[True, False], [False, False]]

    Args:
        model: the model that trains; SUBNETWORK.md beside this file has what is supported.
        mask: which weights train: a mask, or the path of its file. It must cover every trainable parameter.
        optimizers: the optimizer, or all of them where there are several.
        resumed: training goes on from a checkpoint, whose weights are not the base that the mask was taken against.

    Attributes:
        mask_identity: 32 hexadecimal digits that name the mask, for checkpoints.
        weights: number of trainable weights, the same in all processes.
        inside: how many of them are inside the mask.

    Raises:
        ConfigurationError: an argument cannot work, or the processes have different masks.
        MaskMismatchError: the mask lacks a parameter, has another shape, or is empty where something trains.
        MaskFileError: the file of the mask cannot be read.
        UnsupportedModelError: the model holds its weights in a way in which they cannot be kept.
    """

    def __init__(
        self,
        model: nn.Module,
        mask: UpdateMask | MaskFile | str | os.PathLike[str],
        optimizers: torch.optim.Optimizer | Iterable[torch.optim.Optimizer],
        *,
        resumed: bool = False,
    ) -> None:
        refuse_model(model)
        self._hooks: list[Any] = []
        self._guarded: list[GuardedOptimizer] = []
        opened = open_mask(mask)
        ranks = join_ranks(_device(model))
        contents = ranks.all_or_none(lambda: Contents.of(opened))
        self.mask_identity = contents.identity
        if not ranks.all_have(contents.identity):
            raise ConfigurationError("the processes have different masks; expected the same one in all of them.")
        coverage = self._coverage = ranks.all_or_none(lambda: Coverage(model, opened))
        watch.refuse_a_second(coverage)
        whole = {name: contents.ones[name] for name in coverage.trainable}
        self.inside, self.weights = sum(whole.values()), sum(p.numel() for p in coverage.trainable.values())
        if not self.inside:
            raise MaskMismatchError(
                f"the mask has no ones among the {self.weights:,} weights that train, and "
                f"{sum(contents.ones.values()):,} elsewhere: nothing would move. Expected a mask of what is to train."
            )
        if not resumed:
            _warn_of_another_base(opened, model, ranks)
        self._outside = OutsideWeights(coverage)
        try:
            ranks.all_or_none(lambda: self._guard(coverage, optimizers))
        except BaseException:
            self.close()
            raise
        logger.info("sparsity-monitor: subnetwork: %s", self.described())

    def _guard(self, coverage: Coverage, optimizers: object) -> None:
        for each in _listed(optimizers):
            self._guarded.append(GuardedOptimizer(each, coverage))
        for parameter in coverage.trainable.values():
            self._mask_gradient(parameter, coverage.of(parameter))
        coverage.when_taken_up = self._mask_gradient
        watch.begin(coverage, self._guarded)

    def _mask_gradient(self, parameter: torch.Tensor, inside: Inside) -> None:
        self._hooks.append(mask_gradient_of(parameter, inside))

    @property
    def steps(self) -> int:
        """Number of steps of the optimizers so far, without those that were skipped."""
        return sum(each.steps for each in self._guarded)

    @property
    def state_bytes(self) -> tuple[int, int]:
        """Bytes of the optimizers' state in this process, and of what it would be without the mask; 0 before a step."""
        pairs = [each.step.state_bytes for each in self._guarded]
        return sum(kept for kept, _ in pairs), sum(full for _, full in pairs)

    def described(self) -> str:
        """Say what trains, and of which weights the optimizers keep state."""
        share = percent(self.inside / self.weights)
        kept = dict.fromkeys(each.described() for each in self._guarded)
        return "; ".join([f"{self.inside:,} of {self.weights:,} weights train ({share})", *kept])

    def moved(self) -> list[str]:
        """Return the parameters of which a weight outside the mask is not, bit for bit, what it was at the start.

        Of what this process holds. None has moved, unless something else than the optimizers wrote to them.
        """
        return self._outside.moved()

    def close(self) -> None:
        """Let the model train in full again. The optimizers' state is that of the subnetwork: make new ones."""
        for hook in self._hooks:
            hook.remove()
        for each in self._guarded:
            each.release()
        watch.end(self._coverage)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


def _device(model: nn.Module) -> torch.device:
    parameter = next((p for p in model.parameters() if p.requires_grad), None)
    if parameter is None:
        raise ConfigurationError("no parameter of the model requires gradients; expected some that train.")
    return parameter.device


def _listed(optimizers: object) -> list[object]:
    # accelerate's and DeepSpeed's wrappers, too; none of them is a collection.
    given = list(optimizers) if isinstance(optimizers, Iterable) and not isinstance(optimizers, str) else [optimizers]
    if not given:
        raise ConfigurationError(f"optimizers is {shown(optimizers)}; expected those that step the model's weights.")
    # One that is given twice is guarded once.
    return list({id(each): each for each in given}.values())


def _warn_of_another_base(mask: ReferenceMask, model: nn.Module, ranks: Ranks) -> None:
    taken = mask.metadata
    if not taken.base_fingerprint:
        return
    roster = Roster.of_model(model, None, None, ranks)
    if set(mask.shapes) != {weights.name for weights in roster.selected}:
        # Of more parameters, or fewer: not comparable.
        return
    base = ranks.all_or_none(lambda: find(None, roster.measured))
    selected, visible_dtype = roster.selected, parse_visible_dtype(taken.visible_dtype)
    now = identify(base, selected, selected, visible_dtype, ranks).fingerprint
    if now != taken.base_fingerprint:
        warn_user(
            f"the mask was taken against another base (fingerprint {taken.base_fingerprint}, here {now}): it says "
            "which weights moved from there. Start from those weights, or set resumed=True where training goes on."
        )
