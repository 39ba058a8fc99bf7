from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from monitor.observe.masks.mask import UpdateMask
from monitor.observe.observation import Synchronisation
from monitor.observe.observer import UpdateObserver
from monitor.report.messages.conversion import criterion_message, observation_message
from monitor.report.messages.registration import registration_message
from tests.report.attempts import ObservedModel


def test_counts_travel_in_the_order_of_the_group_table(observed: ObservedModel) -> None:
    observation = observed.train_and_observe()
    message = observation_message(observation)
    registration = observed.registration()
    assert [(g.layer if g.HasField("layer") else None, g.module) for g in registration.groups] == [
        (group.layer, group.module) for group in observation.groups
    ]
    assert list(message.changed) == observation.changed.tolist()
    assert sum(message.changed) > 0
    assert message.step == 1


def test_layers_travel_with_their_stack() -> None:
    towers = nn.ModuleDict({name: nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(2, 2)])}) for name in "ab"})
    observer = UpdateObserver(towers)
    message = registration_message(observer, run_id="run", name="a run")
    assert [(group.stack, group.layer, group.module) for group in message.groups] == [
        ("a", 0, "a"),
        ("b", 0, "b"),
    ]


def test_what_trains_is_sent_where_the_registration_says_otherwise() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(3, 2, bias=False))
    model[0].requires_grad_(False)
    observer = UpdateObserver(model)
    registered = registration_message(observer, run_id="r", name="r").groups
    assert list(observation_message(observer.observe(1), registered).trained) == []
    model[0].requires_grad_(True)
    observer.follow(model)
    assert list(observation_message(observer.observe(2), registered).trained) == [6, 4]
    model[0].requires_grad_(False)
    observer.follow(model)
    assert list(observation_message(observer.observe(3), registered).trained) == [6, 4]


def test_the_norm_of_the_base_is_sent_where_the_registration_says_otherwise() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(3, 2, bias=False))
    model[0].requires_grad_(False)
    observer = UpdateObserver(model)
    registered = registration_message(observer, run_id="r", name="r")
    norm = tuple(registered.base_squared_norm)
    assert norm == tuple(observer.base_squared_norm)
    assert norm[1] == 0 < norm[0]
    assert list(observation_message(observer.observe(1), registered.groups, norm).base_squared_norm) == []
    model[0].requires_grad_(True)
    observer.follow(model)
    later = observer.observe(2)
    sent = list(observation_message(later, registered.groups, norm).base_squared_norm)
    assert later.base_squared_norm is not None
    assert sent == later.base_squared_norm.tolist()
    assert sent[1] > 0


def test_a_weight_sync_travels_with_its_steps() -> None:
    observation = UpdateObserver(nn.Linear(4, 4, bias=False)).observe(3)
    assert not observation_message(observation).HasField("synchronisation")
    sync = Synchronisation(step=2, previous_step=1, changed=np.array([7]))
    message = observation_message(replace(observation, synchronisation=sync)).synchronisation
    assert (message.step, message.previous_step, list(message.changed)) == (2, 1, [7])


def test_what_was_not_measured_is_absent() -> None:
    model = nn.Linear(4, 4, bias=False)
    observer = UpdateObserver(model, step_masks=False)
    message = observation_message(observer.observe(1))
    assert list(message.step_changed) == list(message.touched) == []
    assert list(message.changed) == [0]


def test_weights_that_nothing_can_be_said_of_travel_by_their_number() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(3, 3, bias=False))
    observer = UpdateObserver(model)
    assert list(observation_message(observer.observe(1)).unmeasured) == []
    model[1].weight.data = torch.empty(0)
    with pytest.warns(UserWarning, match="emptied"):
        message = observation_message(observer.observe(2))
    assert (list(message.unmeasured), list(message.changed)) == ([0, 9], [0, 0])


def test_criteria_keep_their_tolerance() -> None:
    model = nn.Linear(2, 2)
    assert criterion_message(UpdateObserver(model).rules.criterion).WhichOneof("kind") == "bits"
    message = criterion_message(UpdateObserver(model, criterion="atol=1e-4").rules.criterion)
    assert message.atol.tolerance == 1e-4


def qwen2_7b() -> nn.Module:
    """The parameter names of Qwen2.5-7B with its number of layers, and a few weights each."""
    model = nn.Module()
    model.embed_tokens = nn.Embedding(8, 8)
    modules = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
    modules += ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "input_layernorm", "post_attention_layernorm"]
    model.layers = nn.ModuleList()
    for _ in range(28):
        layer = nn.Module()
        for path in modules:
            parent, _, leaf = path.rpartition(".")
            if parent and not hasattr(layer, parent):
                setattr(layer, parent, nn.Module())
            setattr(layer.get_submodule(parent), leaf, nn.Linear(4, 4))
        model.layers.append(layer)
    model.norm, model.lm_head = nn.LayerNorm(8), nn.Linear(8, 8)
    return model


def test_an_observation_of_a_7b_model_stays_under_16_kb() -> None:
    model = qwen2_7b()
    mask = UpdateMask.from_bools({n: torch.ones_like(p, dtype=torch.bool) for n, p in model.named_parameters()})
    observer = UpdateObserver(model, tolerances=[1e-5], references={"earlier": mask})
    message = observation_message(observer.observe(1))
    assert len(message.changed) == 28 * 9 + 3
    # Counts as large as those of the real matrices: 3584 × 18944, a third of them changed.
    large = np.full(len(message.changed), 3584 * 18944 // 3).tolist()
    for name in ("changed", "newly_changed", "reverted", "step_changed", "touched"):
        counts = getattr(message, name)
        del counts[:]
        counts.extend(large)
    message.changed_at[0].weights[:] = large
    message.references[0].intersection[:] = large
    assert len(message.SerializeToString()) < 16 * 1024


def test_the_run_description_names_what_is_measured(observed: ObservedModel) -> None:
    message = registration_message(
        observed.observer, run_id="r", name="n", model="m", labels={"seed": "0"}, resumed_from_step=7
    )
    assert message.visible_dtype == "bfloat16"
    assert list(message.stored_dtypes) == ["float32"]
    assert message.base.fingerprint == observed.observer.base_fingerprint
    assert message.labels == {"seed": "0"}
    # Some builds say more than the package does, such as +cu130.
    assert torch.__version__.startswith(message.library_versions["torch"].partition("+")[0])
    assert message.resumed_from_step == 7


def test_how_the_base_is_kept_is_said() -> None:
    observer = UpdateObserver(nn.Linear(4, 4).to(torch.bfloat16), base_mode="low_byte")
    message = registration_message(observer, run_id="r", name="n")
    assert message.base.mode == "low_byte"
