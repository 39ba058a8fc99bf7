"""Stands in for prime-rl 0.8.1.dev67 (559b447) where examples/prime_rl_train.py touches it, with its signatures.

src/prime_rl/trainer/rl/train.py: `train(config)`, under `@clean_exit`, calls by their names in that module, in turn,
`setup_ckpt_manager(config.output_dir, config.ckpt, resume=config.resume)`, `setup_model`, `setup_optimizer(
config.optim, list(model.named_parameters()), parallel_dims, cpu_offload=…, full_offload_config=…, model=model, …)` and,
to resume, `ckpt_manager.load(step, model, [optimizer], scheduler, progress, path=…)`. Each pass of its loop ends with
`optimizer.step()`, `optimizer.zero_grad()`, `scheduler.step()`, the broadcast of the weights, and now and then
`ckpt_manager.save(progress.step, model, [optimizer], scheduler, progress)`, which comes after the last step, too.
src/prime_rl/trainer/optim: `setup_optimizer` returns the optimizer, and a gradient manager or None;
`CPUOffloadOptimizer` is no torch optimizer, has one as `base_optimizer`, and steps by calling its `step`.
src/prime_rl/trainer/ckpt.py: `CheckpointManager.get_ckpt_path(step)`; `Progress.step` is 1 at first.
src/prime_rl/utils/utils.py: `clean_exit` uses functools.wraps, and destroys the process group at the end.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from tests.parallel.sharded import batch, load_sharded, save_whole


@dataclass(frozen=True)
class TrainerConfig:
    """What the example, and the loop below, read of prime-rl's."""

    output_dir: Path
    max_steps: int
    model_name: str
    resume_step: int | None = None
    optim_cpu_offload: bool = False
    full_offload: bool = False


@dataclass
class Progress:
    step: int = 1


class CPUOffloadOptimizer:
    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer

    @property
    def base_optimizer(self) -> torch.optim.Optimizer:
        return self._optimizer

    def step(self, closure: None = None) -> None:
        self._optimizer.step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        self._optimizer.zero_grad(set_to_none=set_to_none)


class CheckpointManager:
    def __init__(self, output_dir: Path) -> None:
        self.ckpt_dir = output_dir / "checkpoints"

    def get_ckpt_path(self, step: int) -> Path:
        return self.ckpt_dir / f"step_{step}" / "trainer"

    def save(
        self, step: int, model: Any, optimizers: Any, scheduler: Any, progress: Any, dataloader: Any = None
    ) -> None:
        path = self.get_ckpt_path(step)
        path.mkdir(parents=True, exist_ok=True)
        torch.save((model.state_dict(), progress.step), path / f"rank_{torch.distributed.get_rank()}.pt")

    def load(
        self,
        step: int,
        model: nn.Module,
        optimizers: list[Any],
        scheduler: Any,
        progress: Progress,
        dataloader: Any = None,
        path: Path | None = None,
    ) -> None:
        path = path or self.get_ckpt_path(step)
        weights, progress.step = torch.load(path / f"rank_{torch.distributed.get_rank()}.pt", weights_only=False)
        model.load_state_dict(weights)


def setup_ckpt_manager(output_dir: Path, ckpt_config: None, resume: None = None) -> CheckpointManager:
    return CheckpointManager(output_dir)


def setup_optimizer(
    config: None,
    named_params: list[tuple[str, nn.Parameter]],
    parallel_dims: None,
    cpu_offload: bool = False,
    full_offload_config: bool | None = None,
    model: nn.Module | None = None,
    full_offload_dtype_policy: None = None,
) -> tuple[Any, Any]:
    optimizer = torch.optim.AdamW([each for _, each in named_params], lr=1e-3)
    return CPUOffloadOptimizer(optimizer) if cpu_offload else optimizer, full_offload_config


def clean_exit(function: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        finally:
            torch.distributed.destroy_process_group()

    return wrapper


@clean_exit
def train(config: TrainerConfig) -> None:
    # The example exchanges these in the module that the loop takes them from.
    loop: Any = sys.modules["prime_rl.trainer.rl.train"]
    manager = loop.setup_ckpt_manager(config.output_dir, None, resume=None)
    model = load_sharded(config.model_name)
    optimizer, _ = loop.setup_optimizer(
        None,
        list(model.named_parameters()),
        None,
        cpu_offload=config.optim_cpu_offload,
        full_offload_config=config.full_offload or None,
        model=model,
        full_offload_dtype_policy=None,
    )
    progress = Progress()
    if config.resume_step is not None:
        manager.load(config.resume_step, model, [optimizer], None, progress, path=None)
        progress.step += 1
    while True:
        model(batch(progress.step)).logits.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        if progress.step == config.max_steps:
            break
        manager.save(progress.step, model, [optimizer], None, progress)
        progress.step += 1
    save_whole(model, config.output_dir / f"weights-{progress.step}")
    manager.save(progress.step, model, [optimizer], None, progress)


def install() -> None:
    """Let this process import it under prime-rl's names."""
    names = {
        "prime_rl.configs.trainer": {"TrainerConfig": TrainerConfig},
        "prime_rl.trainer.rl.train": {
            "train": train,
            "setup_optimizer": setup_optimizer,
            "setup_ckpt_manager": setup_ckpt_manager,
        },
        "prime_rl.utils.config": {"cli": lambda kind: kind},
        "prime_rl.utils.utils": {"clean_exit": clean_exit},
    }
    for package in ("", ".configs", ".trainer", ".trainer.rl", ".utils"):
        sys.modules[f"prime_rl{package}"] = ModuleType(f"prime_rl{package}")
    for name, members in names.items():
        sys.modules[name] = ModuleType(name)
        vars(sys.modules[name]).update(members)
    sys.modules["prime_rl.trainer.rl"].train = sys.modules["prime_rl.trainer.rl.train"]  # type: ignore[attr-defined]
