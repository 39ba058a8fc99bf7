"""Engines' tensors taken apart into the model's parameters, whole and among tensor-parallel ranks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from monitor import engine_slices, fingerprint
from monitor.errors import ConfigurationError, UnsupportedModelError
from tests.observe.served.engine import Engine, added, config, parameters


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
@pytest.mark.parametrize("key_heads", [8, 4, 2, 1])
def test_ranks_add_up_to_the_model(key_heads: int, ranks: int) -> None:
    """Each as often as ranks have it: replicas of few key-value heads, and of norms."""
    shape = config(key_heads=key_heads)
    trained = parameters(shape)
    total = added(Engine(shape, ranks).load(trained).fingerprints())
    whole = fingerprint(trained)
    copies = {name: ranks if name.endswith(("norm.weight", "o_proj.bias")) else 1 for name in whole}
    copies |= {name: max(1, ranks // key_heads) for name in whole if "k_proj" in name or "v_proj" in name}
    assert total == {name: copies[name] * number % 2**64 for name, number in whole.items()}


def test_a_permuted_fused_matrix_is_found() -> None:
    shape = config()
    trained = parameters(shape)
    exchanged = dict(trained)
    k, v = "model.layers.1.self_attn.k_proj.weight", "model.layers.1.self_attn.v_proj.weight"
    exchanged[k], exchanged[v] = trained[v], trained[k]
    total, whole = added(Engine(shape, 2).load(exchanged).fingerprints()), fingerprint(trained)
    assert {name for name in whole if name.endswith("_proj.weight") and total[name] != whole[name]} == {k, v}


def test_a_table_of_ones_own_takes_plain_tuples_and_renames() -> None:
    fused = torch.randn(10, 3)
    found = fingerprint({"h.0.attn.c_attn": fused}, slices={r"attn\.c_attn$": [("q", 6), ("k", 2), ("v", 2)]})
    assert found == fingerprint({"h.0.q": fused[:6], "h.0.k": fused[6:8], "h.0.v": fused[8:]})
    assert fingerprint({"lm.a": fused}, slices={r"^lm\.": [("model.",)]}) == fingerprint({"model.a": fused})


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"qkv": [("q", 7)]}, r"qkv has the shape \(8, 2\).*q 7. Expected as many rows together"),
        ({"qkv": [("q", 9), ("k",)]}, "k an equal share"),
        ({"qkv": [("q",), ("k",), ("v",)]}, "not what the table of slices says"),
        ({"qkv": [("q", 8, 2)]}, "not what the table of slices says"),
        ({"qkv": ["q"]}, r"slices has .q. for .qkv.; expected \(name, rows"),
        ({"qkv": [("q", 8, 0, 2, 2)]}, "with 0 ≤ rank < ranks"),
        ({"(": []}, "no regular expression"),
        ([("qkv", [])], "expected pattern → slices"),
    ],
)
def test_a_table_that_does_not_fit_is_named(table: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        fingerprint({"qkv": torch.ones(8, 2)}, slices=table)


def test_a_part_that_is_there_by_its_own_name_too_is_refused() -> None:
    tensors = {"q": torch.ones(4, 2), "qkv": torch.ones(8, 2)}
    with pytest.raises(UnsupportedModelError, match="q is there twice, by its own name and as a part of qkv"):
        fingerprint(tensors, slices={"^qkv$": [("q", 4), ("k", 4)]})


@pytest.mark.parametrize(
    ("changes", "ranks", "message"),
    [
        ({}, 3, "8 attention and 2 key-value heads cannot be split among 3 ranks"),
        ({"vocab_size": None}, 1, "has vocab_size=None; expected a number"),
        ({"num_attention_heads": None}, 1, r"config.get_text_config\(\)"),
        ({}, 0, "expected 0 ≤ rank < ranks"),
    ],
)
def test_a_configuration_that_cannot_be_split_is_named(changes: dict[str, Any], ranks: int, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        engine_slices(SimpleNamespace(**{**vars(config()), **changes}), ranks=ranks)
