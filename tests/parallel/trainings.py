"""Trainings of the HF Trainer on several processes, as torchrun starts them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import multiprocessing

from tests.parallel.processes import preload

RANK_STEPS = 4


def train_together(world: int, how: str, model: str, output: str, **settings: Any) -> list[dict[str, Any]]:
    """Train on `world` processes, and return what each one saw.

    Args:
        how: "ddp", "fsdp2", or "zero1", "zero2", "zero3".
        model: directory of the model.
        output: output directory; the final weights are in `final` below it.
        settings: `max_steps`, `save_steps`, `learning_rate`, `resume`: a checkpoint to go on from, `target`,
            `callback`: settings of the callback, `callbacks`: other ones, `arguments`: other ones of the training.
    """
    return run_as_torchrun(world, train, (how, model, output, settings))


def run_as_torchrun(world: int, function: Callable[..., Any], arguments: tuple[Any, ...]) -> list[Any]:
    """Run a function in `world` processes that torchrun could have started, and return what each returned."""
    # As torchrun does, the starting process holds the store: a port that only was free a moment ago may be taken.
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    with tempfile.TemporaryDirectory() as directory:
        preload()
        started = (world, store.port, directory, function, arguments)
        multiprocessing.start_processes(_run, args=started, nprocs=world, start_method="forkserver")
        return [torch.load(Path(directory) / f"result-{rank}", weights_only=False) for rank in range(world)]


def _run(
    rank: int, world: int, port: int, directory: str, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        TORCHELASTIC_USE_AGENT_STORE="True",
        DS_ACCELERATOR="cpu",
    )
    torch.save(function(*arguments), Path(directory) / f"result-{rank}")
    torch.distributed.destroy_process_group()


def train(how: str, model: str, output: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Train on one of the processes."""
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    from monitor import SparsityCallback

    options = _options(how)
    arguments = TrainingArguments(
        output_dir=output,
        max_steps=settings.get("max_steps", RANK_STEPS),
        per_device_train_batch_size=2,
        learning_rate=settings.get("learning_rate", 1e-3),
        logging_steps=1,
        save_strategy="steps" if settings.get("save_steps") else "no",
        save_steps=settings.get("save_steps", 500),
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        **settings.get("arguments", {}),
        **options,
    )
    dtype = torch.bfloat16 if how.startswith("zero") else torch.float32
    pretrained = AutoModelForCausalLM.from_pretrained(model, dtype=dtype)
    generator = torch.Generator().manual_seed(3)
    tokens = [torch.randint(0, 60, (8,), generator=generator).tolist() for _ in range(32)]
    data = [{"input_ids": ids, "labels": ids} for ids in tokens]
    callback = None
    if settings.get("monitored", True):
        callback = SparsityCallback(settings.get("target"), "parallel", **settings.get("callback", {}))
    callbacks = [*([callback] if callback else []), *settings.get("callbacks", [])]
    trainer = Trainer(pretrained, arguments, train_dataset=data, callbacks=callbacks)
    trainer.train(resume_from_checkpoint=settings.get("resume"))
    trainer.save_model(f"{output}/final")
    return {
        "last": callback.last_observation if callback else None,
        "kept": callback.kept if callback else None,
        "run_id": callback.run_id if callback else None,
        "step": trainer.state.global_step,
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
    }


def _options(how: str) -> dict[str, Any]:
    if how == "fsdp2":
        _let_accelerate_shard_on_a_cpu()
        wrap = {
            "version": 2,
            "transformer_layer_cls_to_wrap": ["Qwen2DecoderLayer"],
            "state_dict_type": "FULL_STATE_DICT",
        }
        return {"fsdp": True, "fsdp_config": wrap}
    if how.startswith("zero"):
        return {"deepspeed": _zero(int(how[-1])), "bf16": True}
    return {}


def _zero(stage: int) -> dict[str, Any]:
    import deepspeed.ops
    import transformers.training_args
    from transformers.utils import import_utils

    # bfloat16 is refused where there is no GPU, although DeepSpeed trains with it on a CPU.
    for module in (transformers.training_args, import_utils):
        module.is_torch_bf16_gpu_available = lambda: True
    # Compiled for half a minute, its collectives through shared memory are for inference: training never calls them.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # ZeRO-3 splits the model while it is loaded, which is before the Trainer starts the process group.
    deepspeed.init_distributed("gloo")
    return {
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "bf16": {"enabled": True},
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {"stage": stage, "stage3_gather_16bit_weights_on_model_save": True},
    }


def _let_accelerate_shard_on_a_cpu() -> None:
    """accelerate shards on GPUs only, and replicates on a CPU without a word; FSDP2 itself works there."""
    from accelerate import state

    original = state.AcceleratorState.__init__

    def initialise(self: Any, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
        original(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None and self.distributed_type == state.DistributedType.MULTI_CPU:
            self.distributed_type = state.DistributedType.FSDP
            state.PartialState._shared_state["distributed_type"] = state.DistributedType.FSDP
            if self._mixed_precision != "no":
                fsdp_plugin.set_mixed_precision(self._mixed_precision)
            self.fsdp_plugin = fsdp_plugin

    state.AcceleratorState.__init__ = initialise
