"""A small model with sizes that do not divide evenly, the same on every process, and how it is spread over them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy, fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.up_proj = nn.Linear(width, 52)
        self.down_proj = nn.Linear(52, width, bias=False)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x + self.down_proj(torch.relu(self.up_proj(x))))


class Model(nn.Module):
    def __init__(self, width: int = 36) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(7, width)
        self.layers = nn.ModuleList(Block(width) for _ in range(2))
        # One row: on two processes, one of them gets nothing.
        self.score = nn.Linear(width, 1)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed_tokens(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.score(x)


def make_model() -> Model:
    torch.manual_seed(0)
    return Model()


def spread(model: Model, how: str) -> nn.Module:
    """Spread the model over the processes of the default group."""
    match how:
        case "ddp":
            return DistributedDataParallel(model)
        case "fsdp2":
            return _fully_sharded(model, init_device_mesh("cpu", (_world(),)))
        case "hsdp":
            return _fully_sharded(
                model, init_device_mesh("cpu", (2, _world() // 2), mesh_dim_names=("replica", "shard"))
            )
        case "fsdp1":
            return FullyShardedDataParallel(
                model,
                auto_wrap_policy=lambda module, recurse, nonwrapped_numel: recurse or isinstance(module, Block),
                use_orig_params=True,
                device_id=torch.device("cpu"),
                sharding_strategy=ShardingStrategy.FULL_SHARD,
            )
        case "tensor-parallel":
            return _tensor_parallel(
                model, init_device_mesh("cpu", (2, _world() // 2), mesh_dim_names=("data", "tensor"))
            )
    raise ValueError(how)


def _world() -> int:
    return torch.distributed.get_world_size()


def _fully_sharded(model: Model, mesh: Any) -> nn.Module:
    for layer in model.layers:
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def _tensor_parallel(model: Model, mesh: Any) -> nn.Module:
    """Columns and rows over one dimension of the mesh, FSDP2 over the other."""
    for layer in model.layers:
        plan = {"up_proj": ColwiseParallel(), "down_proj": RowwiseParallel()}
        parallelize_module(layer, mesh["tensor"], plan)
    return _fully_sharded(model, mesh["data"])


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    """One step on data that is the same on every process, so that sums over processes change nothing."""
    torch.manual_seed(step)
    tokens = torch.randint(0, 7, (4, 5))
    model(tokens).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
