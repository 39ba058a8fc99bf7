"""Which of a model's parameters an engine's tensors hold: fused matrices, and what one tensor-parallel rank has.

vLLM and SGLang fuse q_proj, k_proj and v_proj into qkv_proj, and gate_proj and up_proj into gate_up_proj, one after the
other along the first dimension. Among tensor-parallel ranks, these and the embeddings are split by rows, o_proj and
down_proj by columns, and everything else is on each of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from monitor.errors import ConfigurationError, shown
from monitor.observe.weights.measured import MeasuredWeights
from monitor.observe.weights.selection import check_patterns


class Slice(NamedTuple):
    """Some rows of an engine's tensor, which are a parameter of the model or a rank's share of one.

    Attributes:
        name: of the parameter; it takes the place of what the pattern matched.
        rows: how many these are in the engine's tensor; None shares equally what the others leave.
        dim: the dimension along which the parameter is split among ranks.
        rank, ranks: which of how many equal shares this is.
        whole: size of the parameter in that dimension, where the engine pads it at the end; None where it does not.
    """

    name: str
    rows: int | None = None
    dim: int = 0
    rank: int = 0
    ranks: int = 1
    whole: int | None = None


Slices = Mapping[str, Sequence[Slice]]
"""Pattern that is searched for in the names of an engine's tensors → what these hold, from their first row on."""


def engine_slices(config: Any, *, rank: int = 0, ranks: int = 1) -> dict[str, list[Slice]]:
    """Return the table of slices of a dense model that vLLM or SGLang serves, for one of its tensor-parallel ranks.

    Experts, which engines stack in ways of their own, are not in it: `Watch.served` names them as not compared.

    Args:
        config: the model's, as transformers has it: num_attention_heads, num_key_value_heads, head_dim, hidden_size,
            vocab_size. Of a model with several parts, the language model's: config.get_text_config().
        rank, ranks: tensor-parallel rank, and how many there are.

    Raises:
        ConfigurationError: the heads cannot be split among so many ranks, or the configuration lacks their number.
    """
    if not 0 <= rank < ranks:
        raise ConfigurationError(f"rank is {rank} of ranks={ranks}; expected 0 ≤ rank < ranks.")
    heads = _number(config, "num_attention_heads")
    key_heads = _number(config, "num_key_value_heads", heads)
    size = _number(config, "head_dim", None) or _number(config, "hidden_size") // heads
    if heads % ranks or (key_heads % ranks and ranks % key_heads):
        raise ConfigurationError(
            f"{heads} attention and {key_heads} key-value heads cannot be split among {ranks} ranks. Give the engine's "
            "tensor-parallel size as ranks."
        )
    # With fewer key-value heads than ranks, some ranks have the same one.
    copies = max(1, ranks // key_heads)
    key_rows = max(1, key_heads // ranks) * size
    key_share = (key_rows, 0, rank // copies, ranks // copies)
    by_rows = {"rank": rank, "ranks": ranks}
    vocabulary = Slice("", whole=_number(config, "vocab_size"), **by_rows)
    return {
        r"(?<=\.)qkv_proj(?=\.(weight|bias)$)": [
            Slice("q_proj", heads // ranks * size, **by_rows),
            Slice("k_proj", *key_share),
            Slice("v_proj", *key_share),
        ],
        r"(?<=\.)gate_up_proj(?=\.(weight|bias)$)": [Slice("gate_proj", **by_rows), Slice("up_proj", **by_rows)],
        r"(?<=\.)o_proj(?=\.weight$)": [Slice("o_proj", dim=1, **by_rows)],
        r"(?<=\.)down_proj(?=\.weight$)": [Slice("down_proj", dim=1, **by_rows)],
        r"(?<=\.)embed_tokens(?=\.weight$)": [vocabulary._replace(name="embed_tokens")],
        r"(?:^|(?<=\.))lm_head(?=\.(weight|bias)$)": [vocabulary._replace(name="lm_head")],
    }


def _number(config: Any, name: str, otherwise: int | None = -1) -> int:
    found = getattr(config, name, None)
    if isinstance(found, int) and found > 0:
        return found
    if otherwise == -1:
        raise ConfigurationError(
            f"the configuration {type(config).__name__} has {name}={shown(found)}; expected a number. Of a model with "
            "several parts, give that of the language model: config.get_text_config()."
        )
    return otherwise or 0


def check_slices(slices: Slices | None) -> dict[str, list[Slice]]:
    """Return a table of slices, whose entries may be plain tuples such as ("q_proj", 2048).

    Raises:
        ConfigurationError: a pattern is no regular expression, or an entry is no slice.
    """
    if slices is None:
        return {}
    if not isinstance(slices, Mapping):
        raise ConfigurationError(f"slices is {shown(slices)}; expected pattern → slices, as engine_slices returns.")
    check_patterns(list(slices), "slices")
    return {pattern: [_slice(pattern, given) for given in rows] for pattern, rows in slices.items()}


def _slice(pattern: str, given: object) -> Slice:
    try:
        if isinstance(given, str) or not isinstance(given, Sequence):
            raise TypeError("not a tuple")
        found = Slice(*given)
        if isinstance(found.name, str) and 0 <= found.rank < found.ranks and found.dim >= 0 and (found.rows or 0) >= 0:
            return found
    except TypeError:
        pass
    raise ConfigurationError(
        f"slices has {shown(given)} for {pattern!r}; expected (name, rows, dim, rank, ranks, whole), such as "
        '("q_proj", 2048), with 0 ≤ rank < ranks.'
    )


def cut(name: str, tensor: torch.Tensor, slices: Mapping[str, Sequence[Slice]]) -> Iterator[MeasuredWeights]:
    """Return what one of an engine's tensors holds of the model's parameters; itself where no pattern fits.

    Raises:
        ConfigurationError: the tensor has not the rows that the table says.
    """
    pattern = next((pattern for pattern in slices if re.search(pattern, name)), None)
    if pattern is None:
        yield _placed(name, tensor, (0,) * tensor.dim(), tuple(tensor.shape))
        return
    first = 0
    for part, rows in zip(slices[pattern], _rows(name, tensor, slices[pattern]), strict=True):
        renamed = re.sub(pattern, lambda _, part=part: part.name, name, count=1)  # type: ignore[misc]
        yield _share(renamed, tensor[first : first + rows], part)
        first += rows


def _rows(name: str, tensor: torch.Tensor, parts: Sequence[Slice]) -> list[int]:
    there = tensor.shape[0] if tensor.dim() else 0
    shared = [part.rows for part in parts].count(None)
    rest = there - sum(part.rows or 0 for part in parts)
    if rest < 0 or (rest and not shared) or (shared and rest % shared) or any(p.dim >= tensor.dim() for p in parts):
        wanted = ", ".join(f"{part.name} {part.rows if part.rows is not None else 'an equal share'}" for part in parts)
        raise ConfigurationError(
            f"{name} has the shape {tuple(tensor.shape)}, which is not what the table of slices says: {wanted}. "
            "Expected as many rows together. Give the engine's tensor-parallel size, or a table of your own as slices."
        )
    return [part.rows if part.rows is not None else rest // shared for part in parts]


def _share(name: str, rows: torch.Tensor, part: Slice) -> MeasuredWeights:
    size = rows.shape[part.dim]
    whole = part.whole if part.whole is not None else size * part.ranks
    first = min(part.rank * size, whole)
    # What lies beyond the whole is padding.
    held = rows.narrow(part.dim, 0, min(size, whole - first))
    offsets = [0] * rows.dim()
    offsets[part.dim] = first
    shape = list(rows.shape)
    shape[part.dim] = whole
    return _placed(name, held, tuple(offsets), tuple(shape))


def _placed(name: str, held: torch.Tensor, offsets: tuple[int, ...], shape: tuple[int, ...]) -> MeasuredWeights:
    bounds = tuple((first, first + size) for first, size in zip(offsets, held.shape, strict=True))
    return MeasuredWeights(
        name=name, shape=shape, bounds=bounds, start=0, stop=math.prod(held.shape), held=lambda: held
    )
