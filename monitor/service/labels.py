"""How things are called in metrics, API and pages: groups, criteria, the user's labels."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from monitor.wire.monitor_pb2 import Criterion, Group, Registration


def group_labels(groups: Sequence[Group]) -> list[tuple[str, str]]:
    """Return (layer, module) of each group: its stack, if it has one, and its number, padded so that layers sort.

    "-" stands for no layer.

    >>> group_labels([Group(layer=7, module="mlp"), Group(module="norm")])
    [('07', 'mlp'), ('-', 'norm')]
    >>> group_labels([Group(layer=7, module="mlp", stack="decoder")])
    [('decoder 07', 'mlp')]
    """
    largest: dict[str, int] = {}
    for group in groups:
        largest[group.stack] = max(group.layer, largest.get(group.stack, 0))
    widths = {stack: max(2, len(str(layer))) for stack, layer in largest.items()}
    return [(_layer_label(group, widths[group.stack]), group.module) for group in groups]


def _layer_label(group: Group, width: int) -> str:
    if not group.HasField("layer"):
        return "-"
    return f"{group.stack} {group.layer:0{width}d}".lstrip()


def criterion_label(criterion: Criterion) -> str:
    """Return what counts as changed in one word.

    >>> criterion_label(Criterion(atol=Criterion.Atol(tolerance=1e-05)))
    'atol=1e-05'
    """
    return f"atol={criterion.atol.tolerance}" if criterion.WhichOneof("kind") == "atol" else "bits"


def measured_as(registration: Registration) -> str:
    """Return what a sparsity of this run has to be named with, such as "bits, bfloat16"."""
    return f"{criterion_label(registration.criterion)}, {registration.visible_dtype}"


def metric_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Return the user's labels under names that Prometheus takes. Names that become equal are numbered.

    >>> metric_labels({"data-set": "math", "data.set": "code"})
    {'label_data_set': 'math', 'label_data_set_2': 'code'}
    """
    named: dict[str, str] = {}
    for key in sorted(labels):
        wanted = name = "label_" + re.sub(r"[^a-zA-Z0-9_]", "_", key)
        number = 2
        while name in named:
            name = f"{wanted}_{number}"
            number += 1
        named[name] = labels[key]
    return named
