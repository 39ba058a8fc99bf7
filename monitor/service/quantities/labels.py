"""How things are called in metrics, API and pages: groups, criteria, the user's labels."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence

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
    """Return the user's labels under names that Prometheus takes."""
    return {name: labels[key] for key, name in metric_label_names(labels).items()}


def metric_label_names(keys: Iterable[str]) -> dict[str, str]:
    """Return key → name in the metrics. Names that become equal are numbered.

    Accents are left out, letters of other scripts become u and their number in Unicode, and all else becomes "_".

    >>> metric_label_names(["data-set", "data.set", "café", "机器"])
    {'café': 'label_cafe', 'data-set': 'label_data_set', 'data.set': 'label_data_set_2', '机器': 'label_u673au5668'}
    """
    named: dict[str, str] = {}
    taken: set[str] = set()
    for key in sorted(keys):
        wanted = name = "label_" + "".join(map(_in_ascii, key))
        number = 2
        while name in taken:
            name = f"{wanted}_{number}"
            number += 1
        taken.add(name)
        named[key] = name
    return named


def _in_ascii(character: str) -> str:
    if character.isascii():
        return character if character.isalnum() else "_"
    # A letter and its accents.
    letter, *accents = list(unicodedata.normalize("NFKD", character))
    if letter.isascii() and letter.isalnum() and all(map(unicodedata.combining, accents)):
        return letter
    return f"u{ord(character):04x}"
