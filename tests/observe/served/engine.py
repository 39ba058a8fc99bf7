"""A stand-in for vLLM: fused matrices on tensor-parallel ranks, loaded parameter by parameter as it loads them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch

from monitor import engine_slices, fingerprint
from monitor.observe.served.worker import WorkerExtension

LAYERS = 2
_PADDED_TO = 64


def config(key_heads: int = 2) -> Any:
    """A model's configuration, as far as engines look at it."""
    return SimpleNamespace(
        num_attention_heads=8,
        num_key_value_heads=key_heads,
        head_dim=4,
        hidden_size=24,
        intermediate_size=40,
        vocab_size=75,
    )


def parameters(shape: Any, seed: int = 0) -> dict[str, torch.Tensor]:
    """The model that trains, in bfloat16."""
    heads, keys = shape.num_attention_heads * shape.head_dim, shape.num_key_value_heads * shape.head_dim
    hidden, inner = shape.hidden_size, shape.intermediate_size
    sizes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (shape.vocab_size, hidden)}
    for layer in range(LAYERS):
        sizes |= {
            f"model.layers.{layer}.{name}": size
            for name, size in {
                "self_attn.q_proj.weight": (heads, hidden),
                "self_attn.q_proj.bias": (heads,),
                "self_attn.k_proj.weight": (keys, hidden),
                "self_attn.k_proj.bias": (keys,),
                "self_attn.v_proj.weight": (keys, hidden),
                "self_attn.v_proj.bias": (keys,),
                "self_attn.o_proj.weight": (hidden, heads),
                "self_attn.o_proj.bias": (hidden,),
                "mlp.gate_proj.weight": (inner, hidden),
                "mlp.up_proj.weight": (inner, hidden),
                "mlp.down_proj.weight": (hidden, inner),
                "input_layernorm.weight": (hidden,),
            }.items()
        }
    sizes |= {"model.norm.weight": (hidden,), "lm_head.weight": (shape.vocab_size, hidden)}
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(size, generator=generator).to(torch.bfloat16) for name, size in sizes.items()}


def added(several: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """The numbers of ranks added up."""
    return {
        name: sum(one.get(name, 0) for one in several) % 2**64 for name in dict.fromkeys(n for o in several for n in o)
    }


class Worker(WorkerExtension):
    """One rank as vLLM's worker has it, with the extension that a server is started with."""

    def __init__(self, held: Mapping[str, torch.Tensor], shape: Any, rank: int = 0, ranks: int = 1) -> None:
        self.rank = rank
        self.parallel_config = SimpleNamespace(tensor_parallel_size=ranks)
        self.model_config = SimpleNamespace(hf_text_config=shape)
        self._model = SimpleNamespace(named_parameters=held.items)

    def get_model(self) -> Any:
        return self._model


class Engine:
    """What its ranks hold, of one model."""

    def __init__(self, shape: Any, ranks: int) -> None:
        self._shape, self._ranks = shape, ranks
        self._weights: list[dict[str, torch.Tensor]] = [{} for _ in range(ranks)]

    def load(self, weights: Mapping[str, torch.Tensor], leave_out: Iterable[str] = ()) -> Engine:
        """Take new weights, but for those whose names contain one of these."""
        for name, tensor in weights.items():
            if not any(part in name for part in leave_out):
                for rank in range(self._ranks):
                    self._load(rank, name, tensor.detach())
        return self

    def held(self, rank: int) -> dict[str, torch.Tensor]:
        """What a rank has."""
        return self._weights[rank]

    def fingerprints(self) -> list[dict[str, int]]:
        """What each rank is asked for, as by collective_rpc."""
        return [
            fingerprint(held, slices=engine_slices(self._shape, rank=rank, ranks=self._ranks))
            for rank, held in enumerate(self._weights)
        ]

    def _load(self, rank: int, name: str, tensor: torch.Tensor) -> None:
        held, ranks = self._weights[rank], self._ranks
        for part in ("q_proj", "k_proj", "v_proj"):
            if part in name:
                return self._load_attention(rank, name, part, tensor)
        for place, part in enumerate(("gate_proj", "up_proj")):
            if part in name:
                inner = self._shape.intermediate_size // ranks
                fused = self._fused(rank, name.replace(part, "gate_up_proj"), 2 * inner, tensor)
                fused[place * inner :][:inner] = tensor[rank * inner :][:inner]
                return None
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            held[name] = tensor.chunk(ranks, dim=1)[rank].clone()
        elif "embed_tokens" in name or "lm_head" in name:
            padded = torch.zeros(-(-len(tensor) // _PADDED_TO) * _PADDED_TO, tensor.shape[1], dtype=tensor.dtype)
            padded[: len(tensor)] = tensor
            held[name] = padded.chunk(ranks)[rank].clone()
        else:
            held[name] = tensor.clone()
        return None

    def _load_attention(self, rank: int, name: str, part: str, tensor: torch.Tensor) -> None:
        ranks = self._ranks
        size = getattr(self._shape, "head_dim", None) or self._shape.hidden_size // self._shape.num_attention_heads
        heads, key_heads = self._shape.num_attention_heads, self._shape.num_key_value_heads
        queries, keys = heads // ranks * size, max(1, key_heads // ranks) * size
        fused = self._fused(rank, name.replace(part, "qkv_proj"), queries + 2 * keys, tensor)
        if part == "q_proj":
            fused[:queries] = tensor[rank * queries :][:queries]
            return
        # With fewer heads than ranks, neighbours have the same one.
        share = rank if key_heads >= ranks else rank // (ranks // key_heads)
        place = queries if part == "k_proj" else queries + keys
        fused[place:][:keys] = tensor[share * keys :][:keys]

    def _fused(self, rank: int, name: str, rows: int, like: torch.Tensor) -> torch.Tensor:
        return self._weights[rank].setdefault(name, torch.zeros(rows, *like.shape[1:], dtype=like.dtype))
