"""A callback for Lightning: Trainer(callbacks=[LightningCallback("localhost:50051")]), on all processes.

python examples/lightning_callback.py --target localhost:50051

It needs lightning >= 2.5. Its checkpoints name a folder beside the run's, in which is what a resume needs.
"""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning
import torch
from plain_loop import batches_of, exercises
from toy_command import Command, read_command
from transformers import AutoModelForCausalLM, AutoTokenizer

import monitor

STATE = "sparsity_monitor"


class LightningCallback(lightning.Callback):
    """Observes `model` of a LightningModule, or the module itself where it has none.

    Args:
        target, settings: as `monitor.watch` takes them. A resume of a model without `name_or_path` needs `base`.
    """

    def __init__(self, target: str | None, **settings: Any) -> None:
        self.settings = {"target": target, **settings}
        self.resume_from: str | None = None
        self.watch: monitor.Watch | None = None
        self._step = 0
        self._block = ExitStack()

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        # One that was saved without the monitor says how many steps its weights have made.
        self.resume_from = checkpoint.get(STATE, checkpoint["global_step"])

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._step = trainer.global_step
        defaults = {"output_dir": trainer.default_root_dir, "planned_steps": max(trainer.max_steps, 0)}
        self.watch = self._block.enter_context(
            monitor.watch(
                getattr(pl_module, "model", pl_module), resume_from=self.resume_from, **(defaults | self.settings)
            )
        )

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: object) -> None:
        # The batches whose gradients are accumulated make no step.
        if self.watch is None or trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        if self.watch.step(self._step, logs=trainer.callback_metrics):
            trainer.should_stop = True

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self.watch is not None:
            directory = Path(trainer.default_root_dir) / "sparsity_monitor_states" / f"step-{trainer.global_step}"
            self.watch.save(directory)
            checkpoint[STATE] = str(directory)

    def on_train_end(self, *_: object) -> None:
        self._block.close()

    def on_exception(self, trainer: object, pl_module: object, exception: BaseException) -> None:
        self._block.__exit__(type(exception), exception, exception.__traceback__)


class LanguageModel(lightning.LightningModule):
    """A language model that learns texts."""

    def __init__(self, model: Path) -> None:
        super().__init__()
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)

    def training_step(self, batch: dict[str, torch.Tensor], _index: int) -> torch.Tensor:
        loss: torch.Tensor = self.model(**batch).loss
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-4)


def train(command: Command, texts: list[str], callback: LightningCallback, **settings: Any) -> LanguageModel:
    """Train a model, and write it to `final` in the output directory; `settings` go to Lightning's Trainer."""
    lightning.seed_everything(command.seed, verbose=False)
    module = LanguageModel(command.model)
    batches = batches_of(AutoTokenizer.from_pretrained(command.model), texts, command.seed)
    trainer = lightning.Trainer(
        max_steps=command.steps, callbacks=[callback], default_root_dir=command.output, logger=False, **settings
    )
    trainer.fit(module, batches)
    if trainer.is_global_zero:
        module.model.save_pretrained(command.output / "final")
    return module


def main() -> None:
    command = read_command(__doc__, output="lightning-run", steps=20)
    labels = {"algorithm": "SFT", "seed": str(command.seed)}
    train(command, exercises(), LightningCallback(command.target, run_name="lightning", labels=labels))


if __name__ == "__main__":
    main()
