"""Layers and modules: which parameters belong to each, under the names that metrics and pages have for them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from monitor.observe.weights.groups import GroupKey, group_keys


@dataclass(frozen=True)
class Parts:
    """The layers and the modules of a model.

    Attributes:
        layers: label → positions of its parameters, layers in order; "-" is what lies outside the layers, the last.
        modules: name → positions of its parameters in all layers, in the order of the model.
    """

    layers: dict[str, list[int]]
    modules: dict[str, list[int]]

    @classmethod
    def of(cls, names: Iterable[str]) -> Parts:
        """Sort parameters, given by their names, into layers and modules.

        >>> Parts.of(["model.norm.weight", "model.layers.0.mlp.up_proj.weight"])
        Parts(layers={'00': [1], '-': [0]}, modules={'norm': [0], 'mlp.up_proj': [1]})
        """
        keys = list(group_keys(names).values())
        modules: dict[str, list[int]] = {}
        layers: dict[tuple[str, int], list[int]] = {}
        outside = []
        for position, key in enumerate(keys):
            modules.setdefault(key.module, []).append(position)
            if key.layer is None:
                outside.append(position)
            else:
                layers.setdefault((key.stack, key.layer), []).append(position)
        widths = _widths(keys)
        labelled = {
            f"{stack} {number:0{widths[stack]}d}".lstrip(): positions
            for (stack, number), positions in sorted(layers.items())
        }
        return cls(labelled | ({"-": outside} if outside else {}), modules)


def _widths(keys: Iterable[GroupKey]) -> dict[str, int]:
    widths: dict[str, int] = {}
    for key in keys:
        widths[key.stack] = max(2, len(str(key.layer or 0)), widths.get(key.stack, 0))
    return widths
