"""verl's FSDP engine, observed: the actor of PPO, GRPO and their like, on all of its workers. Written for verl 0.9.0.

PYTHONPATH=$PWD/examples python -m verl.trainer.main_ppo … \\
    actor_rollout_ref.actor.strategy=fsdp2 actor_rollout_ref.model.external_lib=verl_fsdp \\
    +ray_kwargs.ray_init.runtime_env.env_vars.SPARSITY_MONITOR_TARGET=monitor.example:50051 \\
    +ray_kwargs.ray_init.runtime_env.env_vars.SPARSITY_MONITOR_OUTPUT_DIR=/runs/my-grpo

verl imports `external_lib` in each worker, and takes the engine of the vendor of its device rather than that for any.
Critic and reference model have other engines, or never step.
"""

from typing import Any

import torch
from verl.utils.device import get_device_name, get_vendor
from verl.workers.engine import EngineRegistry, FSDPEngineWithLMHead

import monitor


@EngineRegistry.register("language_model", ["fsdp", "fsdp2"], device=get_device_name(), vendor=get_vendor())
class ObservedEngine(FSDPEngineWithLMHead):  # type: ignore[misc]
    """Observes its weights after each optimizer step, of which verl makes one for each mini-batch."""

    watch: monitor.Watch | None = None
    resume_from: str | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        monitor.Watch.check()
        super().__init__(*args, **kwargs)

    def optimizer_step(self) -> float:
        if self.watch is None:  # not when the engine is made, since a checkpoint is loaded later
            self.watch = monitor.watch(self.module, resume_from=self.resume_from)
        grad_norm: float = super().optimizer_step()
        self.watch.step(logs={"grad_norm": grad_norm})
        self._finish_reading()
        return grad_norm

    def lr_scheduler_step(self) -> float:
        rate: float = super().lr_scheduler_step()
        # Nothing else tells the workers that the training is over: Ray ends them.
        if self.watch and self.lr_scheduler.last_epoch == self.optimizer_config.total_training_steps:
            self.watch.__exit__(None, None, None)
        return rate

    def save_checkpoint(self, local_path: str, *args: Any, **kwargs: Any) -> None:
        super().save_checkpoint(local_path, *args, **kwargs)
        if self.watch is not None:
            with self.eval_mode():  # where offloaded weights are back on the device
                self.watch.save(local_path)
                self._finish_reading()

    def load_checkpoint(self, local_path: str, *args: Any, **kwargs: Any) -> None:
        super().load_checkpoint(local_path, *args, **kwargs)
        self.resume_from = local_path

    def _finish_reading(self) -> None:
        if self.is_param_offload_enabled and torch.cuda.is_available():  # what is read is given to the rollouts next
            torch.cuda.synchronize()
