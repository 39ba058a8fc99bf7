"""LoRA adapters on disk: what they make of their base, one parameter at a time, by the code of a measured training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from monitor.analysis.conversion import Weights
from monitor.analysis.files import CheckpointFiles
from monitor.errors import CheckpointError, MissingLibraryError, name_some
from monitor.observe.weights.adapters import Served, served_by


@dataclass(frozen=True)
class Merged:
    """A parameter of the base with adapters merged into it, in the dtype that the base is stored in."""

    base: Weights
    served: Served
    name: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the parameter."""
        return self.base.shape

    @property
    def dtype(self) -> torch.dtype:
        """How the base is stored."""
        return self.base.dtype

    def read(self) -> torch.Tensor:
        """Return what base and adapters make together."""
        return self.served.merged(self.name, self.base.read()).contiguous()


@dataclass(frozen=True)
class Trained:
    """A parameter that is saved beside the adapters, whole: one of PEFT's modules_to_save."""

    tensor: torch.Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the parameter."""
        return tuple(self.tensor.shape)

    @property
    def dtype(self) -> torch.dtype:
        """How it is stored."""
        return self.tensor.dtype

    def read(self) -> torch.Tensor:
        """Return it."""
        return self.tensor.contiguous()


def with_adapter(base: Mapping[str, Weights], model: nn.Module, files: CheckpointFiles) -> dict[str, Weights]:
    """Return the parameters that an adapter changes, by name. The weights of the adapter itself are loaded whole.

    Args:
        base: the parameters of its base.
        model: of these, on the meta device; PEFT puts its layers into it.
        files: the adapter on disk.

    Raises:
        CheckpointError: it does not fit the base, or is not complete.
        UnsupportedModelError: it is of a kind whose effective weights are not computed here.
        MissingLibraryError: PEFT is not installed.
    """
    stand_ins = _put_stand_ins(model)
    served = served_by(_load(model, files))
    _keep_dtype(served, files)
    changed: dict[str, Weights] = {
        name: Trained(parameter.detach())
        for name, parameter in served.parameters.items()
        if name not in served.effective and id(parameter) not in stand_ins
    }
    parts = {**served.adapters, **{name: served.parameters[name] for name in changed}}
    if absent := [name for name, parameter in parts.items() if parameter.is_meta]:
        raise CheckpointError(
            f"the adapter in {files.source!r} is not complete: it lacks {name_some(absent)}. Copy or download it again."
        )
    if unknown := [name for name in (*served.effective, *changed) if name not in base]:
        raise CheckpointError(f"the adapter in {files.source!r} changes {unknown[0]}, which its base does not have.")
    return changed | {name: Merged(base[name], served, name) for name in served.effective}


def _load(model: nn.Module, files: CheckpointFiles) -> Any:
    try:
        from peft import PeftModel
    except ModuleNotFoundError as error:
        raise MissingLibraryError(
            f"{files.source!r} holds adapters, which are merged by PEFT; it is not installed: pip install peft",
            name=error.name,
        ) from None
    try:
        return PeftModel.from_pretrained(
            model, str(files.directory), autocast_adapter_dtype=False, low_cpu_mem_usage=True, torch_device="cpu"
        )
    except Exception as error:
        raise CheckpointError(
            f"the adapter in {files.source!r} does not fit its base, or is not complete: "
            f"{' '.join(str(error).split())[:200]}. Give the base that it was trained on."
        ) from error


def _put_stand_ins(model: nn.Module) -> dict[int, nn.Parameter]:
    """Give each parameter the memory of one weight, in float32: PEFT puts adapters where their base is, as it is.

    Returns:
        id → what was put in.
    """
    found: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            stand_in = nn.Parameter(torch.zeros((), device="cpu").expand(parameter.shape), requires_grad=False)
            setattr(module, name, found.setdefault(id(parameter), stand_in))
    return {id(stand_in): stand_in for stand_in in found.values()}


def _keep_dtype(served: Served, files: CheckpointFiles) -> None:
    """Compute with the adapters in the dtype in which they were saved, as in the training."""
    dtypes = {dtype for name, dtype in files.dtypes.items() if "lora_" in name}
    if len(dtypes) == 1:
        (dtype,) = dtypes
        for parameter in served.adapters.values():
            parameter.data = parameter.data.to(dtype)
