"""Roster: the parameters of a model in the order in which they are measured, and those that may start to train."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch.distributed as dist
from torch import nn

from monitor.observe.ranks import Ranks, join_ranks
from monitor.observe.weights.frozen import FrozenParameters
from monitor.observe.weights.groups import GroupTable
from monitor.observe.weights.measured import MeasuredWeights
from monitor.observe.weights.names import clean_name
from monitor.observe.weights.placement import place
from monitor.observe.weights.presence import Presence
from monitor.observe.weights.replaced import find_again
from monitor.observe.weights.selection import select_parameters


@dataclass(frozen=True)
class _Observed:
    """The model that a roster is of.

    Attributes:
        model: the model.
        parameters: its parameters by clean name, as they were found last; None for those that are gone.
        presence: whether these still are the model's.
        watch: of the parameters that are not measured.
    """

    model: nn.Module
    parameters: Mapping[str, nn.Parameter | None]
    presence: Presence
    watch: FrozenParameters


class Roster:
    """What is measured of a model, here and in the other processes. It does not change: others are made from it.

    Args:
        ranks: the processes that the model is spread over, which all must make this.
        placed: what this process measures of each parameter, and would of a frozen one, by name.
        selected: names of the parameters that are measured from the start.
        late: names of those that are measured although they were frozen then, in the order in which they came.
        lost: name → what happened to it, of the parameters that cannot be measured any more, or not at the moment.
        observed: the model.

    Attributes:
        ranks: the processes.
        lost: what cannot be measured.
        selected: the parameters that are measured from the start.
        late: those that came later.
        stored: all that are measured and that the model holds.
        computed: all that are measured and that adapters make.
        measured: stored, then computed: the order of segments, counts and masks.
        frozen: what is not measured, and counts as unchanged.
        shapes: name → shape of the whole parameter, of what is measured, in the same order.
        table: the groups of all parameters. What is lost is among their frozen weights, as what is not measured.
    """

    def __init__(
        self,
        ranks: Ranks,
        placed: Mapping[str, MeasuredWeights],
        selected: Sequence[str],
        late: Sequence[str],
        *,
        lost: Mapping[str, str],
        observed: _Observed,
    ) -> None:
        self.ranks = ranks
        self.lost = lost
        self._placed = placed
        self._observed = observed
        self._selected, self._late = list(selected), list(late)
        self.selected = [placed[name] for name in selected if name not in lost]
        self.late = [placed[name] for name in late if name not in lost]
        together = [*self.selected, *self.late]
        self.stored = [weights for weights in together if weights.effective is None]
        self.computed = [weights for weights in together if weights.effective is not None]
        self.measured = [*self.stored, *self.computed]
        self.shapes = {weights.name: weights.shape for weights in self.measured}
        self.frozen = [weights for name, weights in placed.items() if name not in self.shapes and name not in lost]
        self.table = GroupTable.build(
            (name, math.prod(weights.shape), name not in self.shapes) for name, weights in placed.items()
        )

    @classmethod
    def of_model(
        cls,
        model: nn.Module,
        include: Sequence[str] | None,
        exclude: Sequence[str] | None,
        ranks: Ranks | None,
        process_group: dist.ProcessGroup | None = None,
    ) -> Roster:
        """Return what is measured of a model as it is now.

        Args:
            model: the model that trains.
            include, exclude: as for `select_parameters`.
            ranks: the processes that train together; None for those of the process group.
            process_group: None for the default one.

        Raises:
            ConfigurationError: a pattern cannot work, or nothing trainable is left.
            UnsupportedModelError: the model holds weights in a way that cannot be measured rightly.
        """
        selection = select_parameters(model, include, exclude)
        ranks = ranks or join_ranks(selection.device, process_group)
        placed = {weights.name: weights for weights in place(model, selection, ranks)}
        watch = FrozenParameters(model, selection.frozen, selection.served.parameters)
        parameters: dict[str, nn.Parameter | None] = {**selection.trainable, **selection.frozen}
        observed = _Observed(model, parameters, Presence(model, placed), watch)
        return cls(ranks, placed, list(selection.trainable), [], lost={}, observed=observed)

    @property
    def names(self) -> list[str]:
        """All parameters."""
        return list(self._placed)

    @property
    def tied(self) -> dict[str, str]:
        """The other names of parameters that have several, such as that of a tied output layer → the name here."""
        names = {id(parameter): name for name, parameter in self._observed.parameters.items() if parameter is not None}
        every = self._observed.model.named_parameters(remove_duplicate=False)
        found = {clean_name(name): names[id(parameter)] for name, parameter in every if id(parameter) in names}
        return {other: name for other, name in found.items() if other not in self._placed}

    @property
    def unmeasured(self) -> npt.NDArray[np.int64]:
        """Weights that are lost, per group."""
        counts = np.zeros(len(self.table.groups), dtype=np.int64)
        for name in self.lost:
            counts[self.table.index[name]] += math.prod(self._placed[name].shape)
        return counts

    def with_late(self, names: Sequence[str]) -> Roster:
        """Return the roster on which some of the frozen parameters are measured, too."""
        self._observed.watch.forget(names)
        late = [*self._late, *names]
        return Roster(self.ranks, self._placed, self._selected, late, lost=self.lost, observed=self._observed)

    def without(self, lost: Mapping[str, str]) -> Roster:
        """Return the roster on which these are lost, and no others."""
        return Roster(self.ranks, self._placed, self._selected, self._late, lost=lost, observed=self._observed)

    def thawed(self) -> tuple[list[str], list[str]]:
        """Return the frozen parameters that train since the last call; see FrozenParameters."""
        return self._observed.watch.thawed()

    def warn_of_new(self, model: nn.Module) -> None:
        """Name, once, the parameters that were added to the model since measuring started."""
        self._observed.watch.warn_of_new(model)

    def is_in_place(self) -> bool:
        """Return whether the model has the modules and parameters that this was made of."""
        return self._observed.presence.is_unchanged()

    def absent(self) -> dict[str, str]:
        """Return what should be measured and this process does not hold at the moment: name → what happened."""
        return self._observed.presence.absent(self._placed[name] for name in (*self._selected, *self._late))

    def look_again(self) -> tuple[Roster, dict[str, str]]:
        """Find the parameters of the model where they are now. All processes must call this.

        Returns:
            the roster on which nothing is lost, and what is not in the model as it was: name → what happened.

        Raises:
            UnsupportedModelError: the model holds weights in a way now that cannot be measured rightly.
        """
        seen = self._observed
        found = find_again(seen.model, seen.parameters, self._placed, self.ranks)
        seen.presence.look_again({name: w for name, w in found.placed.items() if w is not self._placed[name]})
        seen.watch.replace(found.parameters)
        observed = replace(seen, parameters=found.parameters)
        return Roster(self.ranks, found.placed, self._selected, self._late, lost={}, observed=observed), found.gone

    @property
    def adapted(self) -> list[str]:
        """Names of the parameters that are not measured and that adapters change now."""
        return [weights.name for weights in self.frozen if weights.effective is not None]
