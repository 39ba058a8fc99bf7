"""Models of a few thousand weights, and checkpoints of them on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

_SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 32,
    "max_position_embeddings": 32,
}


def dense_model(*, tied: bool = True, dtype: torch.dtype = torch.float32, **sizes: Any) -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    return Qwen2ForCausalLM(Qwen2Config(**{**_SIZES, **sizes}, tie_word_embeddings=tied)).to(dtype)


def expert_model() -> Qwen3MoeForCausalLM:
    """A model whose experts are one tensor in memory, and many on disk."""
    torch.manual_seed(0)
    sizes = {**_SIZES, "head_dim": 8, "num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(**sizes))


def changed(model: Any, share: float = 0.3, by: float = 0.05) -> Any:
    """Move some weights of every parameter by some percent: some of them less than bfloat16 shows."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in (each for each in model.parameters() if each.requires_grad):
            moved = torch.rand(parameter.shape, generator=generator) < share
            factor = 1 + by * torch.rand(parameter.shape, generator=generator) ** 8
            parameter.mul_(torch.where(moved, factor, 1.0).to(parameter.dtype))
    return model


def saved(model: Any, directory: Path, **options: Any) -> Path:
    model.save_pretrained(directory, **options)
    return directory
