"""Which shard of each parameter this process measures.

Every weight of the model is measured by exactly one process: replicated parameters are split among the processes,
sharded ones are measured where they are, and the replicas of a shard split it. No process sees a whole parameter that
it does not hold.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from monitor.errors import UnsupportedModelError, name_some
from monitor.observe.bits import BITS_PER_WORD
from monitor.observe.ranks import Ranks, digest
from monitor.observe.weights.adapters import Served
from monitor.observe.weights.measured import MeasuredWeights
from monitor.observe.weights.selection import Selection
from monitor.observe.weights.shard import Bounds, whole_bounds


@dataclass(frozen=True)
class Held:
    """What this process holds of a parameter.

    Attributes:
        tensor: returns the tensor with the weights, as it is now.
        shape: shape of the whole parameter.
        bounds: what these weights lie within.
        span: which of the weights within the bounds `tensor` has, in order: first and last + 1.
        replica: which of the processes that hold the same weights this is, and how many these are.
        looks_replicated: nothing but its presence on every process says that it is the same there.
    """

    tensor: Callable[[], torch.Tensor]
    shape: tuple[int, ...]
    bounds: Bounds
    span: tuple[int, int]
    replica: tuple[int, int]
    looks_replicated: bool = False

    def own_span(self) -> tuple[int, int]:
        """Return what of `span` this one of the replicas measures; it starts at a multiple of 32 weights."""
        first, last = self.span
        index, replicas = self.replica
        if not self.tensor().is_contiguous():
            # It has no span that could be looked at without a copy: the first one measures all of it.
            return first, last if index == 0 else first
        words = -(-(last - first) // BITS_PER_WORD)
        size = -(-words // replicas) * BITS_PER_WORD
        return min(first + index * size, last), min(first + (index + 1) * size, last)


def place(model: nn.Module, selection: Selection, ranks: Ranks) -> list[MeasuredWeights]:
    """Return what this process measures, and would of what is frozen: first the trainable parameters, then the frozen.

    There is one entry per parameter, in the order of the selection; its span may be empty.

    Among several processes, all must call this.

    Args:
        model: the model that the parameters belong to.
        selection: its parameters, and what adapters make of them.
        ranks: the processes that train together.

    Raises:
        UnsupportedModelError: a parameter is spread over the processes in a way that is not known here.
    """
    parameters, served = selection.trainable | selection.frozen, selection.served
    if ranks.world == 1:
        alone = [_measured(name, _hold(name, parameter, ranks)) for name, parameter in parameters.items()]
        return _with_adapters(alone, served, ranks)
    held = ranks.all_or_none(lambda: _hold_all(model, parameters, ranks))
    shapes = {name: tuple(adapter.shape) for name, adapter in served.adapters.items()}
    _check_parameters({**shapes, **{name: one.shape for name, one in held.items()}}, ranks)
    replicated = {name: held[name].tensor() for name in held if held[name].looks_replicated}
    _check_replicas({**replicated, **served.adapters}, ranks)
    return _with_adapters([_measured(name, one) for name, one in held.items()], served, ranks)


def stands_in(now: torch.Tensor | None, then: torch.Tensor | None, model: nn.Module) -> bool:
    """Return whether what has the place of a parameter now only stands in for it for a while.

    After an evaluation, FSDP2 leaves some parameters unsharded until the next forward pass, and FSDP1 puts views there.
    """
    if then is None or not dist.is_available():
        return False
    from torch.distributed.fsdp import FSDPModule

    if hasattr(then, "device_mesh"):
        unsharded = now is not None and not hasattr(now, "device_mesh") and now.shape == then.shape
        return unsharded and any(isinstance(module, FSDPModule) for module in model.modules())
    return id(then) in _flat_of_fsdp1(model)


def _flat_of_fsdp1(model: nn.Module) -> set[int]:
    from torch.distributed.fsdp import FullyShardedDataParallel

    handles = (module._handle for module in FullyShardedDataParallel.fsdp_modules(model))
    return {id(p) for handle in handles if handle is not None for p in handle.flat_param._params or ()}


def _with_adapters(measured: list[MeasuredWeights], served: Served, ranks: Ranks) -> list[MeasuredWeights]:
    """Give each parameter that adapters make to one process: computing it on several would be work done twice."""
    load = [0] * ranks.world
    result = []
    for weights in measured:
        effective = served.effective.get(weights.name)
        start, stop = weights.start, weights.stop
        if effective is not None:
            owner = load.index(min(load))
            load[owner] += math.prod(weights.shape)
            start, stop = 0, math.prod(weights.shape) if owner == ranks.rank else 0
        original, dequantised = served.bases.get(weights.name), served.dequantised.get(weights.name)
        result.append(
            replace(weights, start=start, stop=stop, effective=effective, original=original, dequantised=dequantised)
        )
    return result


def _measured(name: str, held: Held) -> MeasuredWeights:
    start, stop = held.own_span()
    return MeasuredWeights(name, held.shape, held.bounds, start, stop, held=held.tensor, first_held=held.span[0])


def _check_parameters(shapes: Mapping[str, tuple[int, ...]], ranks: Ranks) -> None:
    """Check that all processes have the same parameters, because what they count is added up in this order.

    Under pipeline parallelism each process has those of its stage.
    """
    digests = {name: digest((name, shape)) for name, shape in shapes.items()}
    # As long on every process, however many parameters it has: in a collective, sizes that differ hang.
    summaries = ranks.rows([len(digests), digest(list(digests.values()))])
    if summaries.eq(summaries[0]).all():
        return
    padding = [0] * (int(summaries[:, 0].max()) - len(digests))
    everywhere = set.intersection(*map(set, ranks.rows([*digests.values(), *padding]).tolist()))
    own = [name for name, number in digests.items() if number not in everywhere]
    raise UnsupportedModelError(
        "The processes have parameters of other names or shapes. Not found on every process, of those of rank "
        f"{ranks.rank}: {name_some(own) or 'none'}. Expected the whole model on all of them, replicated or sharded; "
        "leave the monitor out of pipeline- and expert-parallel training."
    )


def _check_replicas(weights: Mapping[str, torch.Tensor], ranks: Ranks) -> None:
    """Check on a sample that what looks replicated is the same on every process.

    Under expert parallelism each process has weights of its own under the same name.
    """
    rows = ranks.rows([_sample(tensor) for tensor in weights.values()])
    different = [name for name, same in zip(weights, (rows == rows[0]).all(dim=0).tolist(), strict=True) if not same]
    if different:
        raise UnsupportedModelError(
            f"differs between processes, which each seem to hold weights of their own: {name_some(different)}. "
            "Expected replicated weights, DTensors, FSDP1 or ZeRO-3; leave the monitor out of other parallel training."
        )


def _sample(weights: torch.Tensor) -> int:
    weights = weights.detach().reshape(-1)
    sample = weights[:: max(1, weights.numel() // 1024)].float().view(torch.int32).long()
    return int((sample * torch.arange(1, sample.numel() + 1, device=sample.device)).sum())


def _hold_all(model: nn.Module, parameters: Mapping[str, nn.Parameter], ranks: Ranks) -> dict[str, Held]:
    flat = _hold_fsdp1(model, ranks.world)
    return {name: flat.get(id(p)) or _hold(name, p, ranks) for name, p in parameters.items()}


def _hold(name: str, parameter: nn.Parameter, ranks: Ranks) -> Held:
    if hasattr(parameter, "ds_tensor"):
        return _hold_zero3(name, parameter, ranks.world)
    if hasattr(parameter, "device_mesh"):
        return _hold_dtensor(name, parameter, ranks.world)
    return _replicated(parameter, ranks)


def _replicated(parameter: nn.Parameter, ranks: Ranks) -> Held:
    shape = tuple(parameter.shape)
    span, replica = (0, parameter.numel()), (ranks.rank, ranks.world)
    return Held(lambda: parameter, shape, whole_bounds(shape), span, replica, looks_replicated=True)


def _hold_dtensor(name: str, parameter: Any, world: int) -> Held:
    """FSDP2, HSDP, tensor parallelism: the local tensor has the weights within some bounds."""
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    mesh, placements = parameter.device_mesh, parameter.placements
    replica, replicas = _replica_outside(mesh, world)
    if mesh.size() * replicas != world or any(placement.is_partial() for placement in placements):
        raise UnsupportedModelError(
            f"{name} is placed as {placements} on {mesh.size()} of {world} processes. Expected shards and replicas "
            "over all processes: leave the monitor out of pipeline- and expert-parallel training."
        )
    shape = tuple(parameter.shape)
    sizes, offsets = compute_local_shape_and_global_offset(parameter.shape, mesh, placements)
    bounds = tuple((offset, offset + size) for offset, size in zip(offsets, sizes, strict=True))
    for placement, coordinate, size in zip(placements, mesh.get_coordinate(), mesh.shape, strict=True):
        if placement.is_replicate():
            replica, replicas = replica * size + coordinate, replicas * size
    return Held(parameter.to_local, shape, bounds, (0, parameter.to_local().numel()), (replica, replicas))


def _replica_outside(mesh: Any, world: int) -> tuple[int, int]:
    """Return which replica this is along the dimensions of the whole mesh that a parameter's mesh lacks.

    Modules that a tensor-parallel plan leaves out are on the data dimension alone, and the same along the tensor one.
    """
    root = mesh._get_root_mesh()
    if mesh.size() == world or root.size() != world or not set(mesh.mesh_dim_names) <= set(root.mesh_dim_names):
        return 0, 1
    replica, replicas = 0, 1
    for name, coordinate, size in zip(root.mesh_dim_names, root.get_coordinate(), root.shape, strict=True):
        if name not in mesh.mesh_dim_names:
            replica, replicas = replica * size + coordinate, replicas * size
    return replica, replicas


def _hold_zero3(name: str, parameter: Any, world: int) -> Held:
    """DeepSpeed ZeRO-3: a span of the flattened parameter; what pads the last one is garbage."""
    group = parameter.ds_process_group
    if dist.get_world_size(group) != world:
        raise UnsupportedModelError(
            f"{name} is partitioned over {dist.get_world_size(group)} of {world} processes (MiCS, hpZ). Expected "
            "ZeRO-3 over all processes."
        )
    size = parameter.ds_tensor.ds_numel
    on_disk = getattr(parameter.ds_tensor, "final_location", None) == "nvme"
    if on_disk or parameter.ds_tensor.numel() != size:
        raise UnsupportedModelError(
            f"{name} is offloaded to NVMe: its weights are in no memory between steps. Expected ZeRO-3 with "
            "offload_param on the CPU or none."
        )
    first = min(dist.get_rank(group) * size, parameter.ds_numel)
    shape = tuple(parameter.ds_shape)
    return Held(
        lambda: parameter.ds_tensor,
        shape,
        whole_bounds(shape),
        (first, min(first + size, parameter.ds_numel)),
        (0, 1),
    )


def _hold_fsdp1(model: nn.Module, world: int) -> dict[int, Held]:
    """FSDP1 with `use_orig_params`: spans of the flattened parameters, by the parameter's id."""
    if not dist.is_available():
        return {}
    from torch.distributed.fsdp import FullyShardedDataParallel

    held = {}
    for module in FullyShardedDataParallel.fsdp_modules(model):
        handle = module._handle
        if handle is None or not handle.uses_sharded_strategy:
            continue
        if not handle._use_orig_params or handle.process_group.size() != world:
            raise UnsupportedModelError(
                "FSDP1 hides the parameters in flat ones (use_orig_params=False) or shards within a part of the "
                "processes (HYBRID_SHARD). Set use_orig_params=True and FULL_SHARD, or use FSDP2."
            )
        flat = handle.flat_param
        for parameter, shape, shard in zip(flat._params or (), flat._shapes, flat._shard_param_infos, strict=True):
            held[id(parameter)] = _hold_fsdp1_span(parameter, tuple(shape), shard)
    return held


def _hold_fsdp1_span(parameter: nn.Parameter, shape: tuple[int, ...], shard: Any) -> Held:
    span = (shard.intra_param_start_idx, shard.intra_param_end_idx + 1) if shard.in_shard else (0, 0)
    return Held(lambda: parameter, shape, whole_bounds(shape), span, (0, 1))
