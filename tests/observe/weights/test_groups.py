from __future__ import annotations

import re
from pathlib import Path

import pytest

from monitor.observe.weights.groups import Group, GroupKey, GroupTable, group_keys

_LINE = re.compile(r"   (\S+) \(")


def published_names() -> dict[str, list[str]]:
    """Parameter names of 23 architectures as transformers makes them; "#" stands for the layer's number."""
    names: dict[str, list[str]] = {}
    for line in (Path(__file__).parent / "parameter_names.txt").read_text().splitlines():
        if line.startswith("## "):
            architecture = line.split()[1]
        elif match := _LINE.match(line):
            names.setdefault(architecture, []).append(match[1])
    return names


@pytest.mark.parametrize("architecture", published_names())
def test_every_parameter_of_an_architecture_has_a_group(architecture: str) -> None:
    names = published_names()[architecture]
    assert len(names) > 5
    keys = group_keys(name.replace("#", "11") for name in names)
    for name, key in zip(names, keys.values(), strict=True):
        assert key.stack == "", "it has one stack, and is called what it was before stacks had names"
        assert (key.layer == 11) == ("#" in name), name
        assert key.module, name
        # The module is the real name inside the layer: nothing of the containers, no number, no ".weight".
        assert name.removesuffix(".weight").removesuffix(".bias").endswith(key.module), name
        assert not re.search(r"\d+\.|#|^model|^transformer|weight$", key.module), name


@pytest.mark.parametrize(
    ("name", "layer", "module"),
    [
        ("model.layers.0.mlp.experts.gate_up_proj", 0, "mlp.experts.gate_up_proj"),
        ("model.layers.3.mlp.experts.17.gate_proj.weight", 3, "mlp.experts.gate_proj"),
        ("transformer.h.10.attn.c_attn.bias", 10, "attn.c_attn"),
        ("transformer.wte.weight", None, "wte"),
        ("backbone.layers.2.mixer.A_log", 2, "mixer.A_log"),
        ("lm_head.weight", None, "lm_head"),
        ("model.visual.blocks.5.attn.qkv.weight", 5, "visual.attn.qkv"),
        ("model.language_model.layers.5.self_attn.q_proj.weight", 5, "self_attn.q_proj"),
        ("model.vision_tower.encoder.layers.5.self_attn.q_proj.weight", 5, "vision_tower.encoder.self_attn.q_proj"),
        ("encoder.block.1.layer.0.SelfAttention.q.weight", 1, "encoder.layer.0.SelfAttention.q"),
        ("_orig_mod.model.layers.1.mlp.up_proj.weight", 1, "mlp.up_proj"),
        ("module.model.layers.1._fsdp_wrapped_module.mlp.up_proj.weight", 1, "mlp.up_proj"),
        ("model.layers.1._checkpoint_wrapped_module.mlp.up_proj.weight", 1, "mlp.up_proj"),
    ],
)
def test_groups_carry_the_layer_and_the_real_module_name(name: str, layer: int | None, module: str) -> None:
    assert group_keys([name]) == {name: GroupKey(layer, module)}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        pytest.param(
            ["encoder.block.0.layer.0.wo.weight", "decoder.block.0.layer.0.wo.weight", "decoder.block.0.layer.1.wo"],
            [
                GroupKey(0, "encoder.layer.0.wo", "encoder"),
                GroupKey(0, "layer.0.wo", "decoder"),
                GroupKey(0, "layer.1.wo", "decoder"),
            ],
            id="encoder and decoder",
        ),
        pytest.param(
            ["decoder.layers.0.mlp.weight", "model.language_model.layers.0.mlp.weight"],
            [GroupKey(0, "decoder.layers.mlp", "decoder"), GroupKey(0, "model.language_model.layers.mlp", "model")],
            id="trunks of two models",
        ),
        pytest.param(
            ["model.layers.0.mlp.weight", "model.blocks.0.mlp.weight"],
            [GroupKey(0, "model.layers.mlp", "layers"), GroupKey(0, "model.blocks.mlp", "blocks")],
            id="two stacks in one module",
        ),
        pytest.param(
            ["a.layers.0.b.c.weight", "a.b.layers.0.c.weight"],
            [GroupKey(0, "a.layers.b.c", "a"), GroupKey(0, "a.b.layers.c", "b")],
            id="paths that differ in the place of the number",
        ),
        pytest.param(
            ["experts.0.layers.0.mlp.weight", "experts.1.layers.0.mlp.weight"],
            [GroupKey(0, "experts.0.mlp", "experts.0"), GroupKey(0, "experts.1.mlp", "experts.1")],
            id="experts that are stacks",
        ),
        pytest.param(
            ["layers.0.blocks.0.mlp.weight", "layers.0.blocks.1.mlp.weight", "layers.1.blocks.0.mlp.weight"],
            [GroupKey(0, "blocks.0.mlp"), GroupKey(0, "blocks.1.mlp"), GroupKey(1, "blocks.0.mlp")],
            id="blocks inside layers",
        ),
        pytest.param(
            ["decoder.norm.weight", "model.norm.weight", "norm2.weight"],
            [GroupKey(None, "decoder.norm"), GroupKey(None, "model.norm"), GroupKey(None, "norm2")],
            id="outside the layers",
        ),
    ],
)
def test_modules_of_different_stacks_have_different_groups(names: list[str], expected: list[GroupKey]) -> None:
    assert list(group_keys(names).values()) == expected
    assert len({(key.layer, key.module) for key in expected}) == len(names), "a service of before refuses them"


def test_weight_and_bias_share_a_group_and_frozen_weights_are_told_apart() -> None:
    table = GroupTable.build(
        [
            ("model.layers.0.q_proj.weight", 100, False),
            ("model.layers.0.q_proj.bias", 10, True),
            ("model.norm.weight", 5, False),
        ]
    )
    assert table.groups == (Group(0, "q_proj", 110, 10), Group(None, "norm", 5, 0))
    assert table.index["model.layers.0.q_proj.bias"] == 0
