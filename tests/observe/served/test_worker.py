"""What one worker of an engine answers: a stand-in with vLLM's names, since vLLM does not run without a GPU."""

from __future__ import annotations

import pytest
import torch

from monitor import fingerprint
from monitor.errors import UnsupportedModelError
from monitor.observe.served.worker import fingerprint_of_worker
from tests.observe.served.engine import Engine, Worker, added, config, parameters

SHAPE = config(key_heads=4)


@pytest.fixture
def trained() -> dict[str, torch.Tensor]:
    return parameters(SHAPE)


def sizes_of(trained: dict[str, torch.Tensor]) -> dict[str, int]:
    return {name: each.numel() for name, each in trained.items()}


def test_the_workers_of_an_engine_add_up_to_the_model(trained: dict[str, torch.Tensor]) -> None:
    """Their ranks are global: of the second engine of two, from 2 on."""
    engine, sizes = Engine(SHAPE, 2).load(trained), sizes_of(trained)
    workers = [Worker(engine.held(rank), SHAPE, rank + 2, 2) for rank in (0, 1)]
    total = added([fingerprint_of_worker(worker, "bfloat16", sizes) for worker in workers])
    assert total == added([worker.sparsity_monitor_fingerprint("bfloat16", sizes) for worker in workers])
    matrices = {name: number for name, number in fingerprint(trained).items() if "_proj.weight" in name}
    assert {name: total[name] for name in matrices} == matrices
    assert set(total) == set(trained)


def test_what_is_split_in_a_way_that_is_not_known_is_left_out(trained: dict[str, torch.Tensor]) -> None:
    """Taken for the whole, it would always differ, and the sync be blamed."""
    held = dict(Engine(SHAPE, 2).load(trained).held(0))
    held["model.layers.0.mlp.experts.w13_weight"] = torch.ones(2, 4)
    norm = "model.layers.0.input_layernorm.weight"
    held[norm] = held[norm][:12]
    found = fingerprint_of_worker(Worker(held, SHAPE, ranks=2), "bfloat16", sizes_of(trained))
    assert set(found) == set(trained) - {norm}


def test_adapters_beside_the_weights_are_not_taken_for_merged_ones(trained: dict[str, torch.Tensor]) -> None:
    held = dict(Engine(SHAPE, 1).load(trained).held(0))
    held["model.layers.0.mlp.down_proj.base_layer.weight"] = held.pop("model.layers.0.mlp.down_proj.weight")
    found = fingerprint_of_worker(Worker(held, SHAPE), "bfloat16", sizes_of(trained))
    assert set(trained) - set(found) == {"model.layers.0.mlp.down_proj.weight"}


def test_a_quantised_engine_says_that_it_cannot_tell(trained: dict[str, torch.Tensor]) -> None:
    held = dict(Engine(SHAPE, 1).load(trained).held(0))
    name = "model.layers.0.mlp.gate_up_proj.weight"
    held |= {name: held[name].to(torch.float8_e4m3fn), f"{name}_scale": torch.ones(1)}
    with pytest.raises(UnsupportedModelError, match=r"gate_up_proj\.weight is quantised"):
        fingerprint_of_worker(Worker(held, SHAPE), "bfloat16", sizes_of(trained))
