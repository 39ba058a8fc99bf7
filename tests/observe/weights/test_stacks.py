"""Layers of different stacks are never one layer, in models as transformers makes them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers import PretrainedConfig, T5Config, T5ForConditionalGeneration

from monitor.observe.observer import UpdateObserver
from monitor.observe.weights.groups import GroupKey, group_keys
from monitor.observe.weights.stacks import stack_names

# Class → the names of its stacks.
ARCHITECTURES = {
    "T5ForConditionalGeneration": {"encoder", "decoder"},
    "BartForConditionalGeneration": {"encoder", "decoder"},
    "WhisperForConditionalGeneration": {"encoder", "decoder"},
    "Qwen2VLForConditionalGeneration": {"visual", "language_model"},
    "Qwen2_5_VLForConditionalGeneration": {"visual", "language_model"},
    "LlavaForConditionalGeneration": {"vision_tower", "language_model"},
    "MllamaForConditionalGeneration": {
        "vision_model.transformer",
        "vision_model.global_transformer",
        "language_model",
    },
    "CLIPModel": {"text_model", "vision_model"},
    "SiglipModel": {"text_model", "vision_model"},
    "ResNetModel": {"stages.0", "stages.1", "stages.2", "stages.3"},
    "IdeficsForVisionText2Text": {"model", "vision_model"},
    "SwinModel": {""},
    "LlamaForCausalLM": {""},
}
_DEPTHS = ("num_hidden_layers", "num_layers", "encoder_layers", "decoder_layers", "depth", "num_global_layers")
_CONTAINERS = {"layers", "layer", "h", "blocks", "block"}


def shallow(config: PretrainedConfig) -> PretrainedConfig:
    """Leave two layers of each stack."""
    for name, value in list(vars(config).items()):
        if isinstance(value, PretrainedConfig):
            shallow(value)
        elif name in _DEPTHS and isinstance(value, int):
            setattr(config, name, min(value, 2))
    return config


def parameter_names(architecture: str) -> list[str]:
    kind: Any = getattr(transformers, architecture)
    with torch.device("meta"):
        model: nn.Module = kind(shallow(kind.config_class()))
    return [name for name, _ in model.named_parameters()]


def path_of_layer(name: str) -> str | None:
    """The module that is a layer of the outermost stack."""
    parts = name.split(".")
    for place, (part, number) in enumerate(pairwise(parts)):
        if part in _CONTAINERS and number.isdigit():
            return ".".join(parts[: place + 2])
    return None


def members(keys: dict[str, GroupKey], *fields: str) -> Iterable[set[str | None]]:
    """The layers, as paths, whose parameters have these fields of their groups in common."""
    found: dict[tuple[object, ...], set[str | None]] = {}
    for name, key in keys.items():
        found.setdefault(tuple(getattr(key, field) for field in fields), set()).add(path_of_layer(name))
    return found.values()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_one_layer_is_one_module_of_the_model(architecture: str) -> None:
    keys = group_keys(parameter_names(architecture))
    layered = {name: key for name, key in keys.items() if path_of_layer(name)}
    assert {key.stack for key in layered.values()} == ARCHITECTURES[architecture]
    assert {key.layer is None for key in layered.values()} == {False}
    assert {(key.layer, key.stack) for name, key in keys.items() if name not in layered} <= {(None, "")}
    assert all(len(paths) == 1 for paths in members(layered, "stack", "layer"))
    assert all(len(paths) == 1 for paths in members(keys, "layer", "module")), "as services without stacks see it"
    several = ARCHITECTURES[architecture] != {""}
    assert any(len(paths) > 1 for paths in members(layered, "layer")) == several, "a number says which, or it does not"
    of_module: dict[str, set[str]] = {}
    for key in layered.values():
        of_module.setdefault(key.module, set()).add(key.stack)
    assert all(len(stacks) == 1 for stacks in of_module.values()), "added up by module, stacks stay apart, too"


def test_counts_by_layer_are_those_of_one_stack() -> None:
    torch.manual_seed(0)
    config = T5Config(vocab_size=40, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_decoder_layers=3, num_heads=4)
    model = T5ForConditionalGeneration(config)
    observer = UpdateObserver(model)
    with torch.no_grad():
        for parameter in model.decoder.block[0].parameters():
            parameter.add_(1.0)
    observation = observer.observe(1)
    changed: dict[tuple[str, int | None], int] = {}
    weights: dict[tuple[str, int | None], int] = {}
    for group, count in zip(observation.groups, observation.changed.tolist(), strict=True):
        layer = (group.stack, group.layer)
        changed[layer] = changed.get(layer, 0) + count
        weights[layer] = weights.get(layer, 0) + group.weights
    own = sum(parameter.numel() for parameter in model.decoder.block[0].parameters())
    assert changed.pop(("decoder", 0)) == weights["decoder", 0] == own
    assert set(changed.values()) == {0}
    assert weights["encoder", 0] == sum(parameter.numel() for parameter in model.encoder.block[0].parameters())
    assert set(weights) == {("", None)} | {("encoder", n) for n in range(2)} | {("decoder", n) for n in range(3)}


@pytest.mark.parametrize(
    ("stacks", "names"),
    [
        ([], []),
        (["layers"], [""]),
        (["layers", "mtp.layers"], ["layers", "mtp"]),
        (["model.layers", "model.mtp.layers"], ["model", "mtp"]),
        (["model.layers", "model.model.x.layers"], ["model.layers", "model.model.x.layers"]),
        (["actor.model.layers", "critic.model.layers"], ["actor", "critic"]),
        (
            ["vision.stages.0.blocks", "vision.stages.1.blocks", "text.h"],
            ["vision.stages.0", "vision.stages.1", "text"],
        ),
        (["towers.0.layers", "towers.1.layers"], ["towers.0", "towers.1"]),
        (["0.layers", "1.layers"], ["0", "1"]),
        (["decoder.layers", "decoder.head.layers", "encoder.layers"], ["decoder", "decoder.head", "encoder"]),
    ],
)
def test_stacks_are_named_by_where_their_paths_part(stacks: list[str], names: list[str]) -> None:
    assert list(stack_names(stacks).values()) == names


def test_numbers_of_many_stacks_sort() -> None:
    names = list(stack_names(f"stages.{number}.layers" for number in range(11)).values())
    assert names == sorted(names)
    assert names[2] == "stages.02"
