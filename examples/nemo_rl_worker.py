"""NeMo-RL's DTensor policy, observed on all of its workers. Written for NeMo-RL 0.7.0.

A script of your own names the class, before it does what examples/run_grpo.py does; SPARSITY_MONITOR_TARGET and
SPARSITY_MONITOR_OUTPUT_DIR are set under policy.dtensor_cfg.env_vars:

    name = "nemo_rl_worker.ObservedWorker"
    ACTOR_ENVIRONMENT_REGISTRY[name] = PY_EXECUTABLES.AUTOMODEL
    nemo_rl.algorithms.grpo.Policy = functools.partial(Policy, worker_extension_cls_fqn=name)
"""

from typing import Any

import ray
import torch
from nemo_rl.models.policy.utils import get_runtime_env_for_policy_worker
from nemo_rl.models.policy.workers.dtensor_policy_worker_v2 import DTensorPolicyWorkerV2Impl

import monitor


class ObservedWorkerImpl(DTensorPolicyWorkerV2Impl):  # type: ignore[misc]
    """Observes its weights after each optimizer step, of which NeMo-RL makes one for each global batch."""

    watch: monitor.Watch | None = None

    def __init__(self, config: Any, *args: Any, weights_path: str | None = None, **kwargs: Any) -> None:
        monitor.Watch.check()
        super().__init__(config, *args, weights_path=weights_path, **kwargs)
        self._resume_from = weights_path
        if self.optimizer is not None:
            self.optimizer.register_step_pre_hook(self._begin)
            self.optimizer.register_step_post_hook(self._observe)

    def _begin(self, *_: Any) -> None:
        if self.watch is None:  # not when the worker is made, which moves the weights away again
            self.watch = monitor.watch(self.model, resume_from=self._resume_from)

    def _observe(self, *_: Any) -> None:
        if self.watch is not None:
            self.watch.step()
            if torch.cuda.is_available():
                torch.cuda.synchronize()  # weights are moved to the CPU, and others take their place

    def save_checkpoint(self, weights_path: str, *args: Any, **kwargs: Any) -> None:
        super().save_checkpoint(weights_path, *args, **kwargs)
        if self.watch is not None:
            self.watch.save(weights_path)

    def shutdown(self) -> bool:
        if self.watch is not None:
            self.watch.__exit__(None, None, None)
        return bool(super().shutdown())


# Ray's actors cannot be inherited from.
ObservedWorker = ray.remote(runtime_env=get_runtime_env_for_policy_worker("dtensor_policy_worker_v2"))(
    ObservedWorkerImpl
)
