"""Roster: the parameters of a model in the order in which they are measured, and those that may start to train."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch.distributed as dist
from torch import nn

from monitor.observe.ranks import Ranks, join_ranks
from monitor.observe.weights.frozen import FrozenParameters
from monitor.observe.weights.groups import GroupTable
from monitor.observe.weights.measured import MeasuredWeights
from monitor.observe.weights.placement import place
from monitor.observe.weights.selection import select_parameters


class Roster:
    """What is measured of a model, here and in the other processes. It does not change: `with_late` makes another one.

    Args:
        ranks: the processes that the model is spread over, which all must make this.
        placed: what this process measures of each parameter, and would of a frozen one, by name.
        selected: names of the parameters that are measured from the start.
        late: names of those that are measured although they were frozen then, in the order in which they came.
        watch: of the parameters that are not measured.

    Attributes:
        ranks: the processes.
        selected: the parameters that are measured from the start.
        late: those that came later.
        stored: all that are measured and that the model holds.
        computed: all that are measured and that adapters make.
        measured: stored, then computed: the order of segments, counts and masks.
        frozen: what is not measured, and counts as unchanged.
        shapes: name → shape of the whole parameter, of what is measured, in the same order.
        table: the groups of all parameters.
    """

    def __init__(
        self,
        ranks: Ranks,
        placed: Mapping[str, MeasuredWeights],
        selected: Sequence[str],
        late: Sequence[str],
        watch: FrozenParameters,
    ) -> None:
        self.ranks = ranks
        self._placed = placed
        self._watch = watch
        self.selected = [placed[name] for name in selected]
        self.late = [placed[name] for name in late]
        together = [*self.selected, *self.late]
        self.stored = [weights for weights in together if weights.effective is None]
        self.computed = [weights for weights in together if weights.effective is not None]
        self.measured = [*self.stored, *self.computed]
        self.shapes = {weights.name: weights.shape for weights in self.measured}
        self.frozen = [weights for name, weights in placed.items() if name not in self.shapes]
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
        watch = FrozenParameters(model, selection.frozen)
        return cls(ranks, placed, list(selection.trainable), [], watch)

    def with_late(self, names: Sequence[str]) -> Roster:
        """Return the roster on which some of the frozen parameters are measured, too."""
        self._watch.forget(names)
        selected, late = ([weights.name for weights in some] for some in (self.selected, self.late))
        return Roster(self.ranks, self._placed, selected, [*late, *names], self._watch)

    def thawed(self) -> list[str]:
        """Return the frozen parameters that train since the last call; see FrozenParameters."""
        return self._watch.thawed()

    def warn_of_new(self, model: nn.Module) -> None:
        """Name, once, the parameters that were added to the model since measuring started."""
        self._watch.warn_of_new(model)
