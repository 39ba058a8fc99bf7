from __future__ import annotations

import re
from pathlib import Path

import pytest

from monitor.observe.weights.groups import GroupKey, GroupTable, clean_name, group_key

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
    for name in names:
        key = group_key(name.replace("#", "11"))
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
    assert group_key(name) == GroupKey(layer, module)


def test_a_module_that_is_called_module_inside_a_name_is_no_wrapper() -> None:
    assert clean_name("model.submodule.weight") == "model.submodule.weight"


def test_weight_and_bias_share_a_group_and_frozen_weights_are_told_apart() -> None:
    table = GroupTable.build(
        [
            ("model.layers.0.q_proj.weight", 100, False),
            ("model.layers.0.q_proj.bias", 10, True),
            ("model.norm.weight", 5, False),
        ]
    )
    assert [(g.layer, g.module, g.weights, g.frozen_weights) for g in table.groups] == [
        (0, "q_proj", 110, 10),
        (None, "norm", 5, 0),
    ]
    assert table.index["model.layers.0.q_proj.bias"] == 0
