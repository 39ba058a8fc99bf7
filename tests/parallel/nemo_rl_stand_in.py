"""Stands in for NeMo-RL 0.7.0 where examples/nemo_rl_worker.py touches it, with the signatures of its source.

nemo_rl/models/policy/workers/dtensor_policy_worker_v2.py: `DTensorPolicyWorkerV2Impl.__init__(config,
weights_path=None, optimizer_path=None, init_optimizer=True, init_reference_model=True, **kwargs)` loads a checkpoint,
too, and sets `model` and `optimizer`; `train(data, loss_fn, …)` calls `optimizer.step()` for each global batch;
`save_checkpoint(weights_path, optimizer_path=None, tokenizer_path=None, checkpointing_cfg=None)`.
nemo_rl/models/policy/workers/base_policy_worker.py: `shutdown()`, which the policy's calls in each worker.
nemo_rl/models/policy/lm_policy.py: `worker_extension_cls_fqn` takes the place of the worker's class; its `weights_path`
goes to the worker by name. Between trainings, the weights are moved to the CPU.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from tests.parallel.sharded import load_sharded


class DTensorPolicyWorkerV2Impl:
    def __init__(
        self, config: Any, weights_path: str | None = None, init_optimizer: bool = True, **kwargs: Any
    ) -> None:
        """Take what its configuration would describe."""
        self.model = load_sharded(config["model_name"])
        if weights_path is not None:
            self.model.load_state_dict(torch.load(self._file(weights_path), weights_only=False))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3) if init_optimizer else None
        self._move()

    def train(self, data: list[torch.Tensor], loss_fn: Callable[[torch.Tensor], torch.Tensor]) -> None:
        for each in data:
            self.optimizer.zero_grad()
            loss_fn(self.model(each).logits).backward()
            self.optimizer.step()
        self._move()

    def _move(self) -> None:
        """Put the weights elsewhere in memory, as moving them to the CPU and back does."""
        self.model._apply(lambda tensor: tensor.clone())

    def save_checkpoint(self, weights_path: str, optimizer_path: str | None = None, **kwargs: Any) -> None:
        Path(weights_path).mkdir(parents=True, exist_ok=True)
        torch.save(self.model.state_dict(), self._file(weights_path))

    def _file(self, weights_path: str) -> Path:
        return Path(weights_path) / f"rank_{torch.distributed.get_rank()}.pt"

    def shutdown(self) -> bool:
        return True


def install() -> None:
    """Let this process import it, and Ray's decorator, under their names."""
    workers = "nemo_rl.models.policy.workers"
    names: dict[str, dict[str, Any]] = {
        "ray": {"remote": lambda **_: lambda kind: kind},
        "nemo_rl.models.policy.utils": {"get_runtime_env_for_policy_worker": lambda name: {}},
        f"{workers}.dtensor_policy_worker_v2": {"DTensorPolicyWorkerV2Impl": DTensorPolicyWorkerV2Impl},
    }
    for package in ("nemo_rl", "nemo_rl.models", "nemo_rl.models.policy", workers):
        sys.modules[package] = ModuleType(package)
    for name, members in names.items():
        sys.modules[name] = ModuleType(name)
        vars(sys.modules[name]).update(members)
