"""Which part of each parameter this process measures.

Every weight of the model is measured by exactly one process: replicated parameters are split among the processes,
sharded ones are measured where they are, and the replicas of a shard split it. No process sees a whole parameter that
it does not hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from monitor.errors import UnsupportedModelError
from monitor.observe.kernels.contract import BITS_PER_WORD
from monitor.observe.measured import Box, MeasuredWeights, whole_box


@dataclass(frozen=True)
class Held:
    """What this process holds of a parameter.

    Attributes:
        tensor: returns the tensor with the weights, as it is now.
        shape: shape of the whole parameter.
        box: the block of the parameter that the weights come from.
        run: first and last index + 1 within the flattened box of the weights that `tensor` has, in order.
        replica: which of the processes that hold the same weights this is, and how many these are.
    """

    tensor: Callable[[], torch.Tensor]
    shape: tuple[int, ...]
    box: Box
    run: tuple[int, int]
    replica: tuple[int, int]

    def share(self) -> tuple[int, int]:
        """Return the part of `run` that this one of the replicas measures; it starts at a multiple of 32 weights."""
        first, last = self.run
        index, replicas = self.replica
        words = -(-(last - first) // BITS_PER_WORD)
        size = -(-words // replicas) * BITS_PER_WORD
        return min(first + index * size, last), min(first + (index + 1) * size, last)


def place(model: nn.Module, parameters: Mapping[str, nn.Parameter], rank: int, world: int) -> list[MeasuredWeights]:
    """Return what this process measures, one entry per parameter in the order given; its run may be empty.

    Args:
        model: the model that the parameters belong to.
        parameters: parameters to measure, by clean name.
        rank, world: this process, and how many there are.

    Raises:
        UnsupportedModelError: a parameter is spread over the processes in a way that is not known here.
    """
    flat = _fsdp1_pieces(model, world)
    measured = []
    for name, parameter in parameters.items():
        held = flat.get(id(parameter)) or _hold(name, parameter, rank, world)
        start, stop = held.share()
        measured.append(MeasuredWeights(name, held.tensor, held.shape, held.box, start, stop, held.run[0]))
    return measured


def _hold(name: str, parameter: nn.Parameter, rank: int, world: int) -> Held:
    if hasattr(parameter, "ds_tensor"):
        return _hold_zero3(name, parameter, world)
    if hasattr(parameter, "device_mesh"):
        return _hold_dtensor(name, parameter, world)
    shape = tuple(parameter.shape)
    return Held(lambda: parameter, shape, whole_box(shape), (0, parameter.numel()), (rank, world))


def _hold_dtensor(name: str, parameter: Any, world: int) -> Held:
    """FSDP2, HSDP, tensor parallelism: the local tensor is a block of the parameter."""
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    mesh, placements = parameter.device_mesh, parameter.placements
    if mesh.size() != world or any(placement.is_partial() for placement in placements):
        raise UnsupportedModelError(
            f"{name} is placed as {placements} on {mesh.size()} of {world} processes. Expected shards and replicas "
            "over all processes: leave the monitor out of pipeline- and expert-parallel training."
        )
    shape = tuple(parameter.shape)
    sizes, offsets = compute_local_shape_and_global_offset(parameter.shape, mesh, placements)
    box = tuple((offset, offset + size) for offset, size in zip(offsets, sizes, strict=True))
    replica, replicas = 0, 1
    for placement, coordinate, size in zip(placements, mesh.get_coordinate(), mesh.shape, strict=True):
        if placement.is_replicate():
            replica, replicas = replica * size + coordinate, replicas * size
    return Held(parameter.to_local, shape, box, (0, parameter.to_local().numel()), (replica, replicas))


def _hold_zero3(name: str, parameter: Any, world: int) -> Held:
    """DeepSpeed ZeRO-3: a run of the flattened parameter; what pads the last one is garbage."""
    group = parameter.ds_process_group
    if dist.get_world_size(group) != world:
        raise UnsupportedModelError(
            f"{name} is partitioned over {dist.get_world_size(group)} of {world} processes (MiCS, hpZ). Expected "
            "ZeRO-3 over all processes."
        )
    size = parameter.ds_tensor.numel()
    first = min(dist.get_rank(group) * size, parameter.ds_numel)
    shape = tuple(parameter.ds_shape)
    return Held(
        lambda: parameter.ds_tensor,
        shape,
        whole_box(shape),
        (first, min(first + size, parameter.ds_numel)),
        (0, 1),
    )


def _fsdp1_pieces(model: nn.Module, world: int) -> dict[int, Held]:
    """FSDP1 with `use_orig_params`: runs of the flattened parameters, by the parameter's id."""
    if not dist.is_available():
        return {}
    from torch.distributed.fsdp import FullyShardedDataParallel

    pieces = {}
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
            pieces[id(parameter)] = _fsdp1_piece(parameter, tuple(shape), shard)
    return pieces


def _fsdp1_piece(parameter: nn.Parameter, shape: tuple[int, ...], shard: Any) -> Held:
    run = (shard.intra_param_start_idx, shard.intra_param_end_idx + 1) if shard.in_shard else (0, 0)
    return Held(lambda: parameter, shape, whole_box(shape), run, (0, 1))
