"""prime-rl's RL trainer, whose loop has no hooks, observed on all of its ranks. Written for prime-rl 0.8.1.dev67.

SPARSITY_MONITOR_TARGET=localhost:50051 uv run torchrun --nproc-per-node 8 examples/prime_rl_train.py @ trainer.toml
"""

from contextlib import ExitStack
from typing import Any

from prime_rl.configs.trainer import TrainerConfig
from prime_rl.trainer.rl import train as loop
from prime_rl.utils.config import cli
from prime_rl.utils.utils import clean_exit

import monitor

setup_optimizer, setup_ckpt_manager = loop.setup_optimizer, loop.setup_ckpt_manager


@clean_exit
def train(config: TrainerConfig) -> None:
    """Run the loop without its own `clean_exit`, which would end the process group before the watch is over."""
    settings: dict[str, Any] = {"output_dir": config.output_dir, "planned_steps": config.max_steps or 0}
    monitor.Watch.check(**settings)
    watches: list[monitor.Watch] = []

    def observed_optimizer(*args: Any, model: Any, **kwargs: Any) -> Any:
        optimizer, gradients = setup_optimizer(*args, model=model, **kwargs)
        assert gradients is None, "with model.full_offload, weights change within the backward pass: unset it"

        def begin(*_: Any) -> None:
            if not watches:  # since a checkpoint is loaded after the optimizer is made
                watches.append(block.enter_context(monitor.watch(model, **settings)))

        stepping = getattr(optimizer, "base_optimizer", optimizer)  # another's, where its state is offloaded
        stepping.register_step_pre_hook(begin)
        stepping.register_step_post_hook(lambda *_: watches[0].step())
        return optimizer, gradients

    def observed_manager(*args: Any, **kwargs: Any) -> Any:
        manager = setup_ckpt_manager(*args, **kwargs)

        def saving(step: int, *args: Any) -> None:
            type(manager).save(manager, step, *args)
            watches[0].save(manager.get_ckpt_path(step))

        def loading(step: int, *args: Any, path: Any = None) -> None:
            type(manager).load(manager, step, *args, path=path)
            path = path or manager.get_ckpt_path(step)
            settings["resume_from"] = path if (path / "sparsity_monitor").is_dir() else step

        manager.save, manager.load = saving, loading
        return manager

    loop.setup_optimizer, loop.setup_ckpt_manager = observed_optimizer, observed_manager
    with ExitStack() as block:
        loop.train.__wrapped__(config)


if __name__ == "__main__":
    train(cli(TrainerConfig))
