"""Tiny models of shapes that differ, made from configurations."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from tests.tiny import token_data

_TEXT: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
_IMAGE, _VIDEO, _START, _END = 60, 61, 62, 63


def dense(*, tied: bool = False, layers: int = 2) -> PreTrainedModel:
    torch.manual_seed(0)
    return Qwen2ForCausalLM(Qwen2Config(**_TEXT | {"tie_word_embeddings": tied, "num_hidden_layers": layers}))


def mixture_of_experts() -> PreTrainedModel:
    """All experts of a layer are one parameter of three dimensions."""
    torch.manual_seed(0)
    experts = {"moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2, "head_dim": 16}
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(**_TEXT, **experts))


def vision_language() -> PreTrainedModel:
    """Language model and vision tower, which is frozen."""
    torch.manual_seed(0)
    text = {"rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}}
    tower = {"depth": 2, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2, "patch_size": 4}
    config = Qwen2VLConfig(
        text_config=_TEXT | text,
        vision_config=tower,
        image_token_id=_IMAGE,
        video_token_id=_VIDEO,
        vision_start_token_id=_START,
        vision_end_token_id=_END,
    )
    model = Qwen2VLForConditionalGeneration(config)
    model.model.visual.requires_grad_(False)
    return model


def images_and_text(rows: int = 16) -> list[dict[str, Any]]:
    """An image of 16 patches, which becomes four tokens, within some text."""
    generator = torch.Generator().manual_seed(5)
    data = []
    for row in token_data(rows):
        tokens = torch.tensor([_START, *[_IMAGE] * 4, _END, *(token % 60 for token in row["input_ids"])])
        patches = torch.randn(16, 3 * 2 * 4 * 4, generator=generator)
        image = {"pixel_values": patches, "image_grid_thw": torch.tensor([1, 4, 4])}
        data.append({"input_ids": tokens, "labels": tokens, "mm_token_type_ids": (tokens == _IMAGE).int(), **image})
    return data


def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Patches of all images follow each other; everything else is stacked."""
    batch = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    batch["pixel_values"] = batch["pixel_values"].flatten(0, 1)
    return batch
