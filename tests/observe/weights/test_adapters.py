from __future__ import annotations

import copy
import io
import math
import weakref
from collections.abc import Callable, Iterable
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
import torch.distributed as dist
from peft import IA3Config, LoraConfig, OFTConfig, PromptTuningConfig, get_peft_model, inject_adapter_in_model
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from monitor.errors import UnsupportedModelError
from monitor.observe.bits import word_count
from monitor.observe.observation import Observation
from monitor.observe.observer import UpdateObserver
from monitor.observe.weights.adapters import served_by
from monitor.observe.weights.groups import group_keys
from monitor.observe.weights.measured import MeasuredWeights
from monitor.observe.weights.roster import Roster
from tests.parallel.processes import run_together

SIZES = {
    "vocab_size": 48,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
LINEAR = ["q_proj", "down_proj"]


def qwen(*, dtype: torch.dtype = torch.bfloat16, tied: bool = False) -> nn.Module:
    torch.manual_seed(0)
    return Qwen2ForCausalLM(Qwen2Config(intermediate_size=40, tie_word_embeddings=tied, **SIZES)).to(dtype)


def experts() -> nn.Module:
    torch.manual_seed(0)
    config = Qwen3MoeConfig(moe_intermediate_size=16, num_experts=4, num_experts_per_tok=2, head_dim=16, **SIZES)
    return Qwen3MoeForCausalLM(config).to(torch.bfloat16)


def lora(model: nn.Module, **changes: Any) -> nn.Module:
    settings = {"r": 4, "target_modules": LINEAR, "lora_dropout": 0.5, "task_type": "CAUSAL_LM"} | changes
    return get_peft_model(model, LoraConfig(**settings))


def several(model: nn.Module, **changes: Any) -> nn.Module:
    """Two adapters, of which one leaves a module out, and a third that is not active."""
    adapted = lora(model, **changes)
    adapted.add_adapter("second", LoraConfig(r=2, target_modules=["q_proj", "up_proj"], lora_alpha=3, **changes))
    adapted.add_adapter("idle", LoraConfig(r=2, target_modules=["q_proj", "k_proj"]))
    adapted.base_model.set_adapter(["default", "second"])
    return adapted


MoE = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
KINDS: dict[str, Callable[[], nn.Module]] = {
    "lora on bfloat16": lambda: lora(qwen()),
    "lora on float32": lambda: lora(qwen(dtype=torch.float32)),
    "bfloat16 adapters": lambda: lora(qwen()).to(torch.bfloat16),
    "rslora": lambda: lora(qwen(), use_rslora=True),
    "dora": lambda: lora(qwen(), use_dora=True),
    "dora on float32": lambda: lora(qwen(dtype=torch.float32), use_dora=True),
    "several": lambda: several(qwen()),
    "several dora": lambda: several(qwen(), use_dora=True),
    "modules_to_save": lambda: lora(qwen(), modules_to_save=["lm_head", "norm"]),
    "modules_to_save, tied": lambda: lora(qwen(tied=True), modules_to_save=["lm_head"]),
    "embedding": lambda: lora(qwen(), target_modules=["embed_tokens", "q_proj"]),
    "tied embedding": lambda: lora(qwen(tied=True), target_modules=["embed_tokens", "q_proj"]),
    "tied embedding with dora": lambda: lora(qwen(tied=True), target_modules=["embed_tokens"], use_dora=True),
    "both sides of a tied embedding": lambda: lora(qwen(tied=True), target_modules=["embed_tokens", "lm_head"]),
    "trained biases": lambda: lora(qwen(), bias="all"),
    "lora_bias": lambda: lora(qwen(), target_modules=["q_proj"], lora_bias=True),
    "experts": lambda: lora(experts(), target_modules=["q_proj"], target_parameters=MoE, lora_dropout=0.0),
}


def train(model: nn.Module, seed: int = 1) -> None:
    """Move what trains, as optimizer steps would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype)


def merged(model: nn.Module) -> dict[str, torch.Tensor]:
    """What PEFT makes of a copy, under the names of the base model."""
    return dict(copy.deepcopy(model).merge_and_unload().named_parameters(remove_duplicate=False))


def bits(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone().view(torch.uint8) for name, tensor in model.state_dict().items()}


def without_adapters(model: nn.Module) -> dict[str, torch.Tensor]:
    """The weights that the adapters were put on, under the names of the base model."""
    return dict(copy.deepcopy(model).unload().named_parameters(remove_duplicate=False))


Group = tuple[int | None, str]


def changed_by_group(names: Iterable[str], before: dict[str, Any], after: dict[str, Any]) -> dict[Group, int]:
    counts: dict[Group, int] = {}
    for name, key in group_keys(names).items():
        differ = int((before[name].bfloat16() != after[name].bfloat16()).sum())
        counts[key.layer, key.module] = counts.get((key.layer, key.module), 0) + differ
    return counts


def counted(observation: Observation) -> dict[Group, int]:
    groups = [(group.layer, group.module) for group in observation.groups]
    return dict(zip(groups, observation.changed.tolist(), strict=True))


@pytest.fixture(params=KINDS)
def adapted(request: pytest.FixtureRequest) -> nn.Module:
    return KINDS[request.param]()


def test_effective_weights_are_those_of_pefts_own_merge(adapted: nn.Module) -> None:
    train(adapted)
    expected, served = merged(adapted), served_by(adapted)
    assert served.effective
    for name, parameter in served.parameters.items():
        weights = served.effective[name]() if name in served.effective else parameter
        assert weights.dtype == expected[name].dtype, name
        assert torch.equal(weights, expected[name]), name


def test_observing_leaves_model_and_random_numbers_as_they_were(adapted: nn.Module) -> None:
    before, random = bits(adapted), torch.get_rng_state()
    observer = UpdateObserver(adapted)
    observer.observe(1)
    assert torch.equal(torch.get_rng_state(), random)
    after = bits(adapted)
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert not any(getattr(module, "merged_adapters", None) for module in adapted.modules())


def test_counts_are_those_of_a_merged_copy_against_the_base_model(adapted: nn.Module) -> None:
    before = without_adapters(adapted)
    observer = UpdateObserver(adapted)
    for step in (1, 2):
        train(adapted, seed=step)
        observation = observer.observe(step)
        after = merged(adapted)
        expected = changed_by_group(served_by(adapted).parameters, before, after)
        assert counted(observation) == expected
        assert sum(expected.values()) > 0
    weights = {name: p.numel() for name, p in before.items() if name in served_by(adapted).parameters}
    assert sum(group.weights for group in observation.groups) == sum(weights.values())
    mask = observer.update_mask()
    for name in mask.shapes:
        differ = before[name].bfloat16() != after[name].bfloat16()
        assert torch.equal(mask.bools(name).reshape(differ.shape), differ), name


def test_the_base_takes_no_memory_of_its_own() -> None:
    model = lora(qwen(), modules_to_save=["lm_head"])
    observer = UpdateObserver(model, step_masks=False)
    assert observer.base_mode == "shared"
    # What is held is the update mask, one bit for each weight.
    assert observer.monitor_bytes == sum(4 * word_count(math.prod(shape)) for shape in observer.shapes.values())


def test_one_effective_matrix_exists_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    observer = UpdateObserver(lora(qwen()))
    alive: list[weakref.ref[torch.Tensor]] = []

    def watched(weights: MeasuredWeights) -> torch.Tensor:
        assert not [tensor for reference in alive if (tensor := reference()) is not None]
        computed = weights.effective() if weights.effective is not None else weights.source.detach()
        alive.append(weakref.ref(computed))
        return computed

    monkeypatch.setattr(MeasuredWeights, "live", watched)
    observer.observe(1)
    assert len(alive) == 4
    assert not [tensor for reference in alive if (tensor := reference()) is not None]


def test_what_is_not_adapted_is_reported_as_frozen() -> None:
    model = lora(qwen())
    observer = UpdateObserver(model)
    frozen = {(g.layer, g.module): (g.weights, g.frozen_weights) for g in observer.groups}
    assert frozen[0, "self_attn.k_proj"] == (32 * 16 + 16,) * 2
    assert frozen[0, "mlp.down_proj"] == (32 * 40, 0)
    # The bias of an adapted layer is frozen.
    assert frozen[0, "self_attn.q_proj"] == (32 * 32 + 32, 32)


def test_patterns_choose_among_the_base_models_names() -> None:
    observer = UpdateObserver(lora(qwen()), include=["q_proj"], exclude=["layers.0"])
    assert set(observer.shapes) == {"model.layers.1.self_attn.q_proj.weight"}


def test_a_mask_of_full_fine_tuning_is_a_reference_for_adapters() -> None:
    full = qwen()
    observer = UpdateObserver(full)
    train(full)
    observer.observe(1)
    adapted = lora(qwen(), modules_to_save=["lm_head"])
    compared = UpdateObserver(adapted, references={"full": observer.update_mask()})
    train(adapted)
    overlap = compared.observe(1).overlap("full")
    assert 0 < overlap.intersection <= min(overlap.changed, overlap.reference)


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_weights_that_an_initialisation_moved_into_the_adapter_are_no_update(init: str) -> None:
    model = lora(qwen(dtype=torch.float32), init_lora_weights=init)
    observer = UpdateObserver(model)
    assert observer.base_mode == "device"
    assert observer.observe(1).changed.sum() == 0
    train(model)
    assert observer.observe(2).changed.sum() > 0


def test_adapters_are_measured_where_transformers_has_injected_them() -> None:
    # `model.add_adapter` does this, if transformers likes the version of PEFT.
    model = inject_adapter_in_model(LoraConfig(r=4, target_modules=LINEAR), qwen())
    observer = UpdateObserver(model)
    train(model)
    assert observer.observe(1).changed.sum() > 0
    assert "model.layers.0.self_attn.q_proj.weight" in observer.shapes


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "IA3": (
        lambda: get_peft_model(qwen(), IA3Config(target_modules=["k_proj"], feedforward_modules=[])),
        "adapters of kind IA3, whose weights are not computed here. Train with LoRA",
    ),
    "OFT": (lambda: get_peft_model(qwen(), OFTConfig(target_modules=["q_proj"], oft_block_size=4)), "of kind OFT"),
    "prompt tuning": (
        lambda: get_peft_model(qwen(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)),
        "of kind PROMPT_TUNING",
    ),
    "single tokens": (
        lambda: lora(qwen(), trainable_token_indices=[1, 2]),
        "model.embed_tokens is a TrainableTokensWrapper of PEFT",
    ),
    "aLoRA": (lambda: lora(qwen(), alora_invocation_tokens=[1]), "q_proj has ALoraLinearVariant"),
    "attention in one module": (
        lambda: get_peft_model(Attention(), LoraConfig(target_modules=["attn"])),
        "attn is a peft.tuners.lora.layer.MultiheadAttention",
    ),
    "merged": (lambda: merge_live(lora(qwen())), r"\['default'\] are merged into model.layers.0"),
    "sharded": (lambda: sharded(lora(qwen())), "adapters on sharded weights .* train adapters with DDP"),
}


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(8, 2)


def merge_live(model: nn.Module) -> nn.Module:
    model.merge_adapter()
    return model


def sharded(model: nn.Module) -> nn.Module:
    next(model.parameters()).ds_tensor = torch.zeros(1)  # as ZeRO-3 marks a parameter
    return model


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_computed_is_refused_by_name(kind: str) -> None:
    make, message = REFUSED[kind]
    with pytest.raises(UnsupportedModelError, match=message):
        UpdateObserver(make())


def test_adapters_that_are_exchanged_during_training_are_not_measured_wrongly() -> None:
    model = lora(qwen())
    model.add_adapter("second", LoraConfig(r=2, target_modules=["k_proj"]))
    observer = UpdateObserver(model)
    model.set_adapter("second")
    with pytest.raises(UnsupportedModelError, match=r"adapters \[\] are active in model.layers.*, and \['default'\]"):
        observer.observe(1)


def test_adapters_that_are_merged_during_training_are_not_measured_wrongly() -> None:
    model = lora(qwen())
    observer = UpdateObserver(model)
    merge_live(model)
    with pytest.raises(UnsupportedModelError, match=r"merged into .* at the moment"):
        observer.observe(1)


def test_quantised_weights_are_named_and_left_out() -> None:
    model = lora(qwen(), modules_to_save=["lm_head"])
    for layer in model.modules():
        if getattr(layer, "base_layer", None) is not None and layer.in_features == 40:
            layer.base_layer.weight = nn.Parameter(torch.zeros(32, 20, dtype=torch.uint8), requires_grad=False)
    with pytest.warns(
        UserWarning, match=r"quantised weights with adapters, so not measured: .*0\.mlp\.down_proj\.weight"
    ):
        observer = UpdateObserver(model)
    assert not any("down_proj" in name for name in observer.shapes)
    assert any("q_proj" in name for name in observer.shapes)


def test_quantised_weights_under_other_names_are_left_out() -> None:
    model = lora(qwen())
    layer = model.get_submodule("base_model.model.model.layers.1.mlp.down_proj")
    layer.__class__ = type("GPTQLoraLinear", (type(layer),), {"__module__": "peft.tuners.lora.gptq"})
    del layer.base_layer.weight
    layer.base_layer.register_buffer("qweight", torch.zeros(5, 32, dtype=torch.int32))
    with pytest.warns(UserWarning, match=r"quantised .*: model\.layers\.1\.mlp\.down_proj\.weight$"):
        observer = UpdateObserver(model)
    assert len(observer.shapes) == 3


def in_4bit(model: nn.Module) -> nn.Module:
    """Quantise the linear layers, as loading with a BitsAndBytesConfig would."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    for parent in list(model.model.layers.modules()):
        for name, linear in list(parent.named_children()):
            if isinstance(linear, nn.Linear):
                quantised = Linear4bit(linear.in_features, linear.out_features, bias=linear.bias is not None)
                quantised.weight = Params4bit(linear.weight.data, requires_grad=False, quant_type="nf4")
                quantised.bias = linear.bias
                setattr(parent, name, quantised.to("cpu"))
    model.is_loaded_in_4bit = True
    return model


def in_8bit(model: nn.Module) -> nn.Module:
    """Quantise the linear layers, as loading with a BitsAndBytesConfig would."""
    from bitsandbytes.nn import Int8Params, Linear8bitLt

    for parent in list(model.model.layers.modules()):
        for name, linear in list(parent.named_children()):
            if isinstance(linear, nn.Linear):
                bias = linear.bias is not None
                quantised = Linear8bitLt(linear.in_features, linear.out_features, bias=bias, has_fp16_weights=False)
                quantised.weight = Int8Params(linear.weight.data, requires_grad=False, has_fp16_weights=False)
                quantised.bias = linear.bias
                setattr(parent, name, quantised.to("cpu"))
    model.is_loaded_in_8bit = True
    return model


def in_hqq(model: nn.Module) -> nn.Module:
    """Quantise the linear layers with HQQ, in 4 bits."""
    from hqq.core.quantize import BaseQuantizeConfig, HQQLinear

    for parent in list(model.model.layers.modules()):
        for name, linear in list(parent.named_children()):
            if isinstance(linear, nn.Linear):
                settings = BaseQuantizeConfig(nbits=4, group_size=8)
                setattr(parent, name, HQQLinear(linear, settings, compute_dtype=torch.bfloat16, device="cpu"))
    return model


def in_torchao(model: nn.Module) -> nn.Module:
    """Load the model with the weights of its linear layers in 8 bits."""
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    with TemporaryDirectory() as directory:
        model.save_pretrained(directory)
        settings = TorchAoConfig(Int8WeightOnlyConfig())
        return Qwen2ForCausalLM.from_pretrained(directory, quantization_config=settings, dtype=torch.bfloat16)


Quantise = Callable[[nn.Module], nn.Module]
QUANTISED: list[tuple[str, Quantise, bool]] = [
    ("bitsandbytes", in_4bit, False),
    ("bitsandbytes", in_4bit, True),
    ("bitsandbytes", in_8bit, False),
    ("hqq", in_hqq, False),
    ("hqq", in_hqq, True),
    ("torchao", in_torchao, False),
]


@pytest.mark.parametrize(("library", "quantise", "dora"), QUANTISED)
def test_adapters_on_quantised_weights_are_measured_against_the_dequantised_base(
    library: str, quantise: Quantise, dora: bool
) -> None:
    pytest.importorskip(library, reason=f"{library} quantises the weights")
    from peft.utils.integrations import dequantize_module_weight

    model = lora(quantise(qwen()), use_dora=dora)
    # The same adapters on what the quantised weights are when dequantised.
    twin = qwen()
    adapted = [name for name, module in model.get_base_model().named_modules() if hasattr(module, "lora_A")]
    assert len(adapted) == 4
    for name in adapted:
        dequantised = dequantize_module_weight(model.get_base_model().get_submodule(name).base_layer)
        assert not torch.equal(dequantised, twin.get_submodule(name).weight)
        twin.get_submodule(name).weight.data = dequantised.clone()
    twin = lora(twin, use_dora=dora)
    before = without_adapters(twin)
    untouched = saved(model)
    with pytest.warns(UserWarning, match=r"not floating point, so not measured: model\.layers\.0\.self_attn\.k_proj"):
        observer = UpdateObserver(model)
    assert observer.observe(1).changed.sum() == 0
    assert saved(model) == untouched
    assert (observer.base_mode, served_by(model).holds_base) == ("shared", True)
    adapters = [name for name, _ in twin.named_parameters() if "lora_" in name]
    for step in (2, 3):
        train(model, seed=step)
        observation = observer.observe(step)
        for name in adapters:
            twin.get_parameter(name).data = model.get_parameter(name).detach().clone()
        names = served_by(model).effective
        assert set(names) == {f"{name}.weight" for name in adapted}
        counts = {group: count for group, count in counted(observation).items() if count}
        assert counts == changed_by_group(names, before, merged(twin))
        assert len(counts) == 4


def saved(model: nn.Module) -> bytes:
    """What is stored, quantised or not."""
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    return file.getvalue()


def everything() -> nn.Module:
    return lora(qwen(), bias="all", modules_to_save=["lm_head"])


def observe_together() -> dict[str, Any]:
    model = everything()
    observer = UpdateObserver(nn.parallel.DistributedDataParallel(model))
    roster = Roster.of_model(model, None, None, None)
    train(model)
    observation = observer.observe(1)
    train(model, seed=2)
    return {
        "counts": [counted(o) for o in (observation, observer.observe(2))],
        "fingerprint": observer.base_fingerprint,
        "computed": [weights.count for weights in roster.computed],
        "ones": observer.update_mask().count(),
    }


@pytest.mark.xdist_group("parallel")
def test_processes_with_the_same_adapters_share_the_work_and_count_once() -> None:
    first, second = run_together(observe_together, 2)
    model = everything()
    observer = UpdateObserver(model)
    train(model)
    alone = [counted(observer.observe(1))]
    train(model, seed=2)
    alone.append(counted(observer.observe(2)))
    assert first["counts"] == second["counts"] == alone
    assert first["fingerprint"] == observer.base_fingerprint
    assert first["ones"] == observer.update_mask().count()
    assert all((here == 0) != (there == 0) for here, there in zip(first["computed"], second["computed"], strict=True))


def adapters_of_their_own() -> None:
    model = lora(qwen())
    train(model, seed=dist.get_rank())
    UpdateObserver(model)


@pytest.mark.xdist_group("parallel")
def test_adapters_that_differ_between_processes_are_refused() -> None:
    with pytest.raises(Exception, match=r"differs between processes.*lora_A"):
        run_together(adapters_of_their_own, 2)
