"""Stands in for verl 0.9.0 where examples/verl_fsdp.py touches it, with the signatures of its source.

verl/workers/engine/base.py: `EngineRegistry.register(model_type, backend, device="cuda", vendor=None)`, which refuses a
key that is taken; `EngineRegistry.get_engine_cls`, which looks for (device, vendor) first, and for the device then;
`BaseEngine.train_batch`: zero_grad, forward and backward, `optimizer_step()`.
verl/workers/engine/fsdp/transformer_impl.py: `FSDPEngine.optimizer_step(self)` returns the norm as a float, and
makes no step where it is not finite; `lr_scheduler_step(self)`; `save_checkpoint(self, local_path, hdfs_path=None,
global_step=0, max_ckpt_to_keep=None)`; `load_checkpoint(self, local_path, hdfs_path=None, del_local_after_load=True)`;
`eval_mode()`, in which offloaded weights are on the device; `is_param_offload_enabled`.
verl/workers/engine_workers.py: `TrainingWorker.train_mini_batch` calls `train_batch` for each mini-batch within
`train_mode()`, which brings the weights to the device and offloads them at its end, and `lr_scheduler_step()` after the
last one. Its optimizer's `total_training_steps` counts these.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import nn

DEVICE, VENDOR = "cpu", "intel"


class EngineRegistry:
    _engines: dict[tuple[str, str], dict[Any, type]] = {}  # noqa: RUF012

    @classmethod
    def register(
        cls,
        model_type: str,
        backend: list[str] | str,
        device: list[str] | str = "cuda",
        vendor: list[str] | str | None = None,
    ) -> Callable[[type], type]:
        def decorate(engine: type) -> type:
            for name in [backend] if isinstance(backend, str) else backend:
                registered = cls._engines.setdefault((model_type, name), {})
                for each in [device] if isinstance(device, str) else device:
                    key = (each, vendor) if vendor else each
                    assert key not in registered
                    registered[key] = engine
            return engine

        return decorate

    @classmethod
    def get_engine_cls(cls, model_type: str, backend: str) -> type:
        registered = cls._engines[model_type, backend]
        return registered.get((DEVICE, VENDOR)) or registered[DEVICE]


@EngineRegistry.register(model_type="language_model", backend=["fsdp", "fsdp2"], device=["cpu", "npu"])
class FSDPEngineWithLMHead:
    def __init__(self, module: nn.Module, total_training_steps: int, *, param_offload: bool) -> None:
        """Take what verl's configuration would describe."""
        self.module = module
        self.optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda _: 1.0)
        self.optimizer_config = SimpleNamespace(total_training_steps=total_training_steps, clip_grad=1.0)
        self._is_offload_param = param_offload

    @property
    def is_param_offload_enabled(self) -> bool:
        return self._is_offload_param

    @contextmanager
    def train_mode(self) -> Iterator[None]:
        self.module.train()
        yield
        self._move()

    @contextmanager
    def eval_mode(self) -> Iterator[None]:
        self.module.eval()
        yield
        self._move()

    def _move(self) -> None:
        """Put the weights elsewhere in memory, as moving them to the CPU and back does."""
        if self._is_offload_param:
            self.module._apply(lambda tensor: tensor.clone())

    def train_batch(self, data: torch.Tensor, loss_function: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, Any]:
        self.optimizer.zero_grad()
        loss_function(self.module(data).logits).backward()
        return {"metrics": {"grad_norm": self.optimizer_step()}}

    def optimizer_step(self) -> float:
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), self.optimizer_config.clip_grad).full_tensor()
        if torch.isfinite(norm):
            self.optimizer.step()
        else:
            self.optimizer.zero_grad()
        return norm.item()

    def lr_scheduler_step(self) -> float:
        self.lr_scheduler.step()
        return self.lr_scheduler.get_last_lr()[0]

    def save_checkpoint(
        self,
        local_path: str,
        hdfs_path: str | None = None,
        global_step: int = 0,
        max_ckpt_to_keep: int | None = None,
        **kwargs: Any,
    ) -> None:
        path = Path(local_path) / f"rank_{torch.distributed.get_rank()}.pt"
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = {"model": self.module.state_dict(), "lr_scheduler": self.lr_scheduler.state_dict()}
        torch.save(whole | {"optimizer": self.optimizer.state_dict()}, path)

    def load_checkpoint(
        self, local_path: str, hdfs_path: str | None = None, del_local_after_load: int = True, **kwargs: Any
    ) -> None:
        path = Path(local_path) / f"rank_{torch.distributed.get_rank()}.pt"
        saved = torch.load(path, weights_only=False)
        self.module.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.lr_scheduler.load_state_dict(saved["lr_scheduler"])


def train_mini_batches(engine: FSDPEngineWithLMHead, batches: list[torch.Tensor]) -> None:
    """Train as `TrainingWorker.train_mini_batch` does."""
    with engine.train_mode():
        for batch in batches:
            engine.train_batch(batch, loss_function=lambda logits: logits.square().mean())
        engine.lr_scheduler_step()


def install() -> None:
    """Let this process import it under verl's names."""
    device = ModuleType("verl.utils.device")
    device.get_device_name, device.get_vendor = lambda: DEVICE, lambda: VENDOR  # type: ignore[attr-defined]
    engine = ModuleType("verl.workers.engine")
    engine.EngineRegistry = EngineRegistry  # type: ignore[attr-defined]
    engine.FSDPEngineWithLMHead = FSDPEngineWithLMHead  # type: ignore[attr-defined]
    for name in ("verl", "verl.utils", "verl.workers"):
        sys.modules[name] = ModuleType(name)
    sys.modules |= {device.__name__: device, engine.__name__: engine}
