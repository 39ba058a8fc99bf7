"""Stacks of layers: encoder and decoder, vision tower and language model each count their layers from 0."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable

# The layer that is counted is the outermost one.
_LAYER = re.compile(r"(?:^|\.)(?:layers|layer|h|blocks|block)\.(\d+)\.")


def split_at_layer(path: str) -> tuple[str, int, str] | None:
    """Return path of the stack, number of the layer, path inside the layer; None outside the layers.

    >>> split_at_layer("model.visual.blocks.3.attn.qkv")
    ('model.visual.blocks', 3, 'attn.qkv')
    """
    match = _LAYER.search(path + ".")
    if match is None:
        return None
    return path[: match.start(1) - 1], int(match.group(1)), path[match.end() :]


def stack_names(stacks: Iterable[str]) -> dict[str, str]:
    """Return path → short name of each stack of a model; "" where it has only one.

    A name has the parts of the path at which stacks part, and numbers among them are padded so that they sort.

    >>> stack_names(["model.visual.blocks", "model.language_model.layers"])
    {'model.visual.blocks': 'visual', 'model.language_model.layers': 'language_model'}
    >>> stack_names(["encoder.stages.0.layers", "encoder.stages.1.layers", "decoder.layers"])
    {'encoder.stages.0.layers': 'encoder.stages.0', 'encoder.stages.1.layers': 'encoder.stages.1', \
'decoder.layers': 'decoder'}
    >>> stack_names(["model.layers"])
    {'model.layers': ''}
    """
    paths = {stack: tuple(stack.split(".")) for stack in stacks}
    if len(paths) < 2:
        return dict.fromkeys(paths, "")
    names = {stack: _name(path, paths.values()) for stack, path in paths.items()}
    uses = Counter(names.values())
    return {stack: name if uses[name] == 1 else stack for stack, name in names.items()}


def _name(path: tuple[str, ...], all_paths: Collection[tuple[str, ...]]) -> str:
    chosen = [
        place
        for place in range(len(path))
        if len({other[place : place + 1] for other in all_paths if other[:place] == path[:place]}) > 1
    ]
    last = len(path) - 1
    beside = {other for other in all_paths if other[:last] == path[:last] and len(other) == len(path)}
    if chosen[-1] == last and len(beside) == 1:
        # "decoder" rather than "decoder.layers": what else is in the decoder has a longer name.
        chosen[-1:] = [] if len(chosen) > 1 else [max(last - 1, 0)]
    # "stages.2" rather than "2".
    named_before = {place - 1 for place in chosen if place and path[place].isdigit()}
    return ".".join(_padded(path, place, all_paths) for place in sorted({*chosen, *named_before}))


def _padded(path: tuple[str, ...], place: int, all_paths: Collection[tuple[str, ...]]) -> str:
    if not path[place].isdigit():
        return path[place]
    alike = [other[place] for other in all_paths if other[:place] == path[:place] and len(other) > place]
    return path[place].zfill(max(len(number) for number in alike if number.isdigit()))
