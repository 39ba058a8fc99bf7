"""Which weights a model with adapters serves, and how they are computed. The only file here that knows PEFT.

What is served is what PEFT's merge would write. It is computed by that very code, on a stand-in for one layer at a time
whose base weight is a copy: merging into the live model and taking it out again does not bring the base back bit for
bit.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from monitor.errors import UnsupportedModelError, name_some
from monitor.observe.user_warning import warn_user
from monitor.observe.weights.names import by_clean_name, clean_name

# Initialisations that take out of the base weight what they put into the adapter.
_CHANGE_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
# PEFT's modules with LoRA layers for quantised weights.
_FOR_QUANTISED = {"aqlm", "awq", "bnb", "eetq", "gptq", "hqq", "inc", "torchao"}
_BITSANDBYTES = {"Params4bit", "Int8Params"}
# What HQQ's layers call their quantised weights.
_HQQ_CODES = "W_q"
_ADVICE = "Train with LoRA (also rsLoRA or DoRA) or without adapters, or leave the monitor out."


@dataclass(frozen=True)
class Served:
    """The parameters of the model that is served, by clean name.

    Attributes:
        parameters: each parameter once, in the model's order. Of an adapted one it is the base's part; in
            modules_to_save it is the trained copy.
        effective: name → computes what base and active adapters make together: a new tensor, in the base's dtype.
        bases: name → what an adapted or copied parameter started from, which the model holds anyway.
        dequantised: name → computes what an adapted parameter started from, where that is quantised.
        adapters: the parameters of the adapters themselves, which are no weights of the served model.
    """

    parameters: dict[str, nn.Parameter]
    effective: dict[str, Callable[[], torch.Tensor]] = field(default_factory=dict)
    bases: dict[str, nn.Parameter] = field(default_factory=dict)
    dequantised: dict[str, Callable[[], torch.Tensor]] = field(default_factory=dict)
    adapters: dict[str, nn.Parameter] = field(default_factory=dict)

    @property
    def holds_base(self) -> bool:
        """Whether the model holds the base of everything that trains, as with plain LoRA."""
        return bool(self.adapters) and all(
            name in self.bases or name in self.dequantised
            for name, parameter in self.parameters.items()
            if parameter.requires_grad or name in self.effective
        )

    def merged(self, name: str, weights: torch.Tensor) -> torch.Tensor:
        """Return what `effective[name]` computes, from `weights` in the place of the base's; overwrites them.

        The model's own may be on the meta device.
        """
        compute = self.effective[name]
        assert isinstance(compute, partial)
        return _effective(name, lambda: weights, compute.args[2])


def served_by(model: nn.Module) -> Served:
    """Return what a model serves; of a model without adapters, its parameters.

    The adapters that are active now are measured. Of quantised weights with adapters, those that cannot be dequantised
    here are named in a warning and left out.

    Raises:
        UnsupportedModelError: the adapters are of a kind whose effective weights are not computed here, or two
            parameters have the same clean name.
    """
    if not has_adapters(model):
        return Served(by_clean_name(model.named_parameters()))
    _refuse_sharded(model)
    return _Reading(model).served()


def has_adapters(model: nn.Module) -> bool:
    """Return whether there are PEFT's modules in a model."""
    # Who has such a model has imported PEFT.
    if "peft" not in sys.modules:
        return False
    from peft import PeftMixedModel, PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    kinds = (PeftModel, PeftMixedModel, BaseTunerLayer, AuxiliaryTrainingWrapper)
    return any(isinstance(module, kinds) for module in model.modules())


def layers_of(effective: Callable[[], torch.Tensor] | None) -> list[nn.Module]:
    """Return the modules that have a part in what `Served.effective` computes."""
    layers = effective.args[2] if isinstance(effective, partial) else ()
    return [layer for layer, _, _ in layers]


def _refuse_sharded(model: nn.Module) -> None:
    sharded = [name for name, p in model.named_parameters() if hasattr(p, "ds_tensor") or hasattr(p, "device_mesh")]
    sharded += [name for name, m in model.named_modules() if type(m).__name__ == "FullyShardedDataParallel"]
    if sharded:
        raise UnsupportedModelError(
            f"adapters on sharded weights (FSDP, ZeRO-3, tensor parallelism): {name_some(sharded)}. Expected whole "
            "weights on every process: train adapters with DDP or ZeRO-1 or 2, or leave the monitor out."
        )


class _Reading:
    """One walk through the modules of a model."""

    def __init__(self, model: nn.Module) -> None:
        self._served = Served({})
        self._names: dict[int, str] = {}
        self._added: list[tuple[str, nn.Parameter]] = []
        self._layers: dict[str, list[Any]] = {}
        self._started_elsewhere: set[str] = set()
        self._left_out: list[str] = []
        self._changing = _base_changing_adapters(model)
        self._walk(model, "")
        by_clean_name(self._added)

    def served(self) -> Served:
        if self._left_out:
            warn_user(f"quantised weights with adapters, so not measured: {name_some(self._left_out)}")
        for name, layers in self._layers.items():
            parameter = self._served.parameters[name]
            start = self._served.dequantised.get(name, partial(_copied, parameter))
            self._served.effective[name] = partial(_effective, name, start, tuple(layers))
            if name in self._served.dequantised:
                continue
            if not parameter.requires_grad and name not in self._started_elsewhere:
                self._served.bases[name] = parameter
        return self._served

    def _walk(self, module: nn.Module, path: str) -> None:
        from peft import PeftMixedModel, PeftModel
        from peft.tuners.lora import LoraLayer
        from peft.tuners.tuners_utils import BaseTunerLayer
        from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper

        if isinstance(module, PeftModel | PeftMixedModel):
            _check_kind(module)
            self._walk(module.get_base_model(), path)
        elif isinstance(module, LoraLayer):
            self._adapted(module, path)
        elif isinstance(module, ModulesToSaveWrapper):
            self._copied(module, path)
        elif isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
            kind = type(module).__name__
            raise UnsupportedModelError(f"{path} is a {kind} of PEFT, whose weights are not computed here. {_ADVICE}")
        else:
            self._own_parameters(module, path)
            for name, child in module.named_children():
                self._walk(child, _join(path, name))

    def _own_parameters(self, module: nn.Module, path: str) -> None:
        for name, parameter in module.named_parameters(recurse=False):
            self._add(_join(path, name), parameter)

    def _add(self, path: str, parameter: nn.Parameter) -> None:
        """Tied parameters go by their first name."""
        if id(parameter) not in self._names:
            self._names[id(parameter)] = clean_name(path)
            self._added.append((path, parameter))
        self._served.parameters[self._names[id(parameter)]] = parameter

    def _name_in(self, layer: Any, path: str, attribute: str) -> str:
        """Name a parameter of an adapted layer, which some quantised layers do not have."""
        parameter = getattr(layer.get_base_layer(), attribute, None)
        return self._names.get(id(parameter), clean_name(_join(path, attribute)))

    def _copied(self, wrapper: Any, path: str) -> None:
        active = [name for name in wrapper.active_adapters if name in wrapper.modules_to_save]
        if not active:
            self._walk(wrapper.original_module, path)
            return
        trained = wrapper.modules_to_save[active[0]]
        self._walk(trained, path)
        originals = dict(wrapper.original_module.named_parameters(remove_duplicate=False))
        for name, parameter in trained.named_parameters():
            original = originals.get(name)
            if original is not None and not original.requires_grad:
                self._served.bases[self._names[id(parameter)]] = original

    def _adapted(self, layer: Any, path: str) -> None:
        """A LoRA layer; around it may be another, of another parameter of the same experts."""
        self._walk(layer.base_layer, path)
        for part, child in layer.named_children():
            if part != "base_layer":
                for name, parameter in child.named_parameters():
                    self._served.adapters[clean_name(f"{path}.{part}.{name}")] = parameter
        adapters = _active(layer)
        if not adapters:
            return
        written = _written(layer, adapters)
        if _is_quantised(layer, written[0]) and not self._dequantise(layer, path, written):
            return
        _check_layer(layer, path, adapters)
        for attribute in written:
            name = self._name_in(layer, path, attribute)
            self._layers.setdefault(name, []).append((layer, attribute, adapters))
            if self._changing & set(adapters):
                self._started_elsewhere.add(name)

    def _dequantise(self, layer: Any, path: str, written: list[str]) -> bool:
        """Put what stands for the dequantised weights in the place of the quantised ones, if they can be measured."""
        # HQQ's codes have a name and a shape of their own.
        self._served.parameters.pop(self._name_in(layer, path, _HQQ_CODES), None)
        name = self._name_in(layer, path, written[0])
        if written != ["weight"] or not _can_dequantise(layer):
            self._left_out.append(name)
            self._served.parameters.pop(name, None)
            return False
        start = partial(_dequantised, layer.get_base_layer())
        weights = start()
        # Shape, dtype and device of the weights, in the memory of one.
        stand_in = torch.zeros((), dtype=weights.dtype, device=weights.device).expand(weights.shape)
        self._served.parameters[name] = nn.Parameter(stand_in, requires_grad=False)
        self._served.dequantised[name] = start
        return True


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _check_kind(model: Any) -> None:
    kinds = {getattr(config.peft_type, "value", config.peft_type) for config in model.peft_config.values()}
    if other := sorted(str(kind) for kind in kinds - {"LORA"}):
        raise UnsupportedModelError(
            f"{type(model).__name__} trains adapters of kind {', '.join(other)}, whose weights are not computed here. "
            f"{_ADVICE}"
        )


def _base_changing_adapters(model: nn.Module) -> set[str]:
    """Return the adapters whose initialisation took something out of the base weights."""
    configurations: dict[str, Any] = {}
    for module in model.modules():
        found = vars(module).get("peft_config")
        configurations |= found if isinstance(found, Mapping) else {}
    return {
        name
        for name, configuration in configurations.items()
        if str(getattr(configuration, "init_lora_weights", "")).lower().startswith(_CHANGE_THE_BASE)
    }


def _active(layer: Any) -> list[str]:
    return [name for name in layer.active_adapters if name in {*layer.lora_A, *layer.lora_embedding_A}]


def _written(layer: Any, adapters: list[str]) -> list[str]:
    """Return the parameters of the base layer that a merge writes."""
    weight = getattr(layer, "parameter_name", None) or "weight"
    return [weight, "bias"] if any(layer.lora_bias.get(name) for name in adapters) else [weight]


def _is_quantised(layer: Any, attribute: str) -> bool:
    if type(layer).__module__.removeprefix("peft.tuners.lora.") in _FOR_QUANTISED:
        return True
    weight = getattr(layer.get_base_layer(), attribute, None)
    return isinstance(weight, torch.Tensor) and (not weight.is_floating_point() or weight.element_size() == 1)


def _can_dequantise(layer: Any) -> bool:
    """Return whether PEFT can: weights of bitsandbytes in 4 or 8 bits, of HQQ, of torchao."""
    base = layer.get_base_layer()
    kind = type(getattr(base, "weight", None))
    return hasattr(base, _HQQ_CODES) or kind.__name__ in _BITSANDBYTES or kind.__module__.startswith("torchao.")


def _dequantised(base: Any) -> torch.Tensor:
    from peft.utils.integrations import dequantize_bnb_weight, dequantize_module_weight

    with torch.no_grad():
        if type(getattr(base, "weight", None)).__name__ not in _BITSANDBYTES:
            weights: torch.Tensor = dequantize_module_weight(base)
            return weights.detach()
        # Not by the function above: it moves 8-bit weights and writes to the state of their layer.
        # Where these have their scales: with the weights, until the first forward pass moves them.
        scales = getattr(base.weight, "SCB", None)
        if scales is None:
            scales = getattr(getattr(base, "state", None), "SCB", None)
        weights = dequantize_bnb_weight(base.weight, state=SimpleNamespace(SCB=scales))
        return weights.detach()


def _copied(parameter: nn.Parameter) -> torch.Tensor:
    return parameter.detach().clone()


def _check_layer(layer: Any, path: str, adapters: list[str]) -> None:
    from peft.tuners.lora import layer as kinds

    known = (kinds.Linear, kinds.Embedding, kinds.Conv1d, kinds.Conv2d, kinds.Conv3d, kinds.ParamWrapper)
    variants = [type(layer.lora_variant[name]).__name__ for name in adapters if name in layer.lora_variant]
    unknown = [variant for variant in variants if not variant.startswith("Dora")]
    problem = None
    if type(layer) not in known and not _can_dequantise(layer):
        problem = f"is a {type(layer).__module__}.{type(layer).__name__}"
    elif unknown:
        problem = f"has {', '.join(unknown)}"
    elif getattr(layer.get_base_layer(), "groups", 1) > 1:
        problem = "is a convolution in groups, which PEFT cannot merge"
    if problem is not None:
        raise UnsupportedModelError(f"{path} {problem}: its effective weights are not computed here. {_ADVICE}")
    if layer.merged:
        raise UnsupportedModelError(
            f"the adapters {layer.merged_adapters} are merged into {path}, so its base is gone. Unmerge them before "
            "training, or save the merged model and train that."
        )


def _effective(
    name: str, start: Callable[[], torch.Tensor], layers: tuple[tuple[Any, str, list[str]], ...]
) -> torch.Tensor:
    """Return start + adapters. Several layers have a part in it where weights are tied."""
    weights = start()
    with torch.no_grad(), torch.autocast(weights.device.type, enabled=False):
        for layer, attribute, adapters in layers:
            if layer.merged:
                raise UnsupportedModelError(f"adapters are merged into {name} at the moment, so it cannot be measured")
            if (active := _active(layer)) != adapters:
                raise UnsupportedModelError(
                    f"the adapters {active} are active in {name} now, and {adapters} were when training started: the "
                    "counts would mean something else. Start a new run when other adapters train"
                )
            weights = _merge(layer, attribute, adapters, weights)
    return weights


def _merge(layer: Any, attribute: str, adapters: list[str], weights: torch.Tensor) -> torch.Tensor:
    """Let PEFT merge into a stand-in for the layer, in which `weights` are the base's `attribute`; overwrites them."""
    from peft.tuners.lora.layer import Linear

    stand_in, base = copy.copy(layer), copy.copy(layer.get_base_layer())
    if _can_dequantise(layer):
        # What is merged is dequantised and stays so: a plain layer, of which merging looks at nothing but the weights.
        base, stand_in.__class__ = nn.Module(), Linear
    else:
        base._parameters = dict(base._parameters)
    for name in _written(layer, adapters):
        tensor = weights if name == attribute else getattr(base, name).detach().clone()
        base._parameters[name] = nn.Parameter(tensor, requires_grad=False)
    stand_in._modules = layer._modules | {"base_layer": base}
    stand_in.merged_adapters, stand_in._caches = [], {}
    stand_in.merge(safe_merge=False, adapter_names=adapters)
    merged: torch.Tensor = base._parameters[attribute].detach()
    return merged
