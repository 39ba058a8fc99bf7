"""Parameter shapes of the models that are measured, and random weights of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

# Share of the weights that differ from the base.
CHANGED = 0.10


@dataclass(frozen=True)
class Architecture:
    """Sizes of a Qwen2.5 model."""

    layers: int
    hidden: int
    key_value: int
    feed_forward: int
    vocabulary: int
    tied: bool


ARCHITECTURES = {
    # To try a benchmark: what it measures says nothing.
    "tiny": Architecture(1, 64, 16, 96, 256, tied=True),
    "0.5B": Architecture(24, 896, 128, 4864, 151936, tied=True),
    "7B": Architecture(28, 3584, 512, 18944, 152064, tied=False),
}


def parameter_shapes(architecture: Architecture, layers: int | None = None) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield (name, shape) of each parameter, of `layers` layers only where that is given."""
    a = architecture
    yield "model.embed_tokens.weight", (a.vocabulary, a.hidden)
    for i in range(a.layers if layers is None else layers):
        for name, width in (("q_proj", a.hidden), ("k_proj", a.key_value), ("v_proj", a.key_value)):
            yield f"model.layers.{i}.self_attn.{name}.weight", (width, a.hidden)
            yield f"model.layers.{i}.self_attn.{name}.bias", (width,)
        yield f"model.layers.{i}.self_attn.o_proj.weight", (a.hidden, a.hidden)
        yield f"model.layers.{i}.mlp.gate_proj.weight", (a.feed_forward, a.hidden)
        yield f"model.layers.{i}.mlp.up_proj.weight", (a.feed_forward, a.hidden)
        yield f"model.layers.{i}.mlp.down_proj.weight", (a.hidden, a.feed_forward)
        yield f"model.layers.{i}.input_layernorm.weight", (a.hidden,)
        yield f"model.layers.{i}.post_attention_layernorm.weight", (a.hidden,)
    yield "model.norm.weight", (a.hidden,)
    if not a.tied:
        yield "lm_head.weight", (a.vocabulary, a.hidden)


class Weights(nn.Module):
    """A model of nothing but random parameters, each a bfloat16 value at first."""

    def __init__(
        self, architecture: Architecture, dtype: torch.dtype, device: str, layers: int | None = None, full: bool = False
    ) -> None:
        super().__init__()
        self._generator = torch.Generator(device).manual_seed(0)
        self._names: dict[str, str] = {}
        for name, shape in parameter_shapes(architecture, layers):
            values = torch.empty(shape, dtype=torch.float32 if full else torch.bfloat16, device=device)
            values.normal_(0.0, 0.02, generator=self._generator)
            key = name.replace(".", "_")
            self._names[key] = name
            self.register_parameter(key, nn.Parameter(values.to(dtype), requires_grad=True))

    @property
    def count(self) -> int:
        """Number of weights."""
        return sum(parameter.numel() for parameter in self.parameters())

    def frozen(self) -> nn.Module:
        """Return a copy of the weights under the same names, as a model that an observer uses where it is."""
        copied = nn.Module()
        for name, parameter in self.named_parameters():
            copied.register_parameter(name, nn.Parameter(parameter.detach().clone(), requires_grad=False))
        return copied

    @torch.no_grad()
    def change(self, share: float = CHANGED) -> None:
        """Move this share of the weights, at random, by about one part in a hundred."""
        for parameter in self.parameters():
            flat = parameter.view(-1)
            for start in range(0, flat.numel(), 1 << 24):
                part = flat[start : start + (1 << 24)]
                chosen = torch.rand(part.shape, generator=self._generator, device=part.device) < share
                part.mul_(torch.where(chosen, 1.01, 1.0).to(part.dtype))
