"""A loop that accelerate spreads over processes, observed on all of them.

torchrun --nproc_per_node 2 examples/accelerate_loop.py --target localhost:50051
"""

from collections.abc import Sequence

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import set_seed
from plain_loop import batches_of, exercises
from toy_command import Command, read_command
from transformers import AutoModelForCausalLM, AutoTokenizer

import monitor


def train(command: Command, texts: Sequence[str]) -> monitor.Watch:
    """Train on every process, and write the model to `final` in the output directory."""
    accelerator = Accelerator(gradient_accumulation_steps=2)
    set_seed(command.seed)
    tokenizer = AutoTokenizer.from_pretrained(command.model)
    model = AutoModelForCausalLM.from_pretrained(command.model, dtype=torch.float32)
    model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=1e-4))
    # Each process draws its own texts.
    batches = batches_of(tokenizer, texts, command.seed + accelerator.process_index)
    step = 0
    # After `prepare`: where it shards the model, the shards are what is observed.
    with monitor.watch(
        model,
        command.target,
        "accelerate",
        labels={"algorithm": "SFT", "processes": str(accelerator.num_processes)},
        output_dir=command.output,
        planned_steps=command.steps,
    ) as watch:
        while step < command.steps:
            with accelerator.accumulate(model):
                loss = model(**{name: each.to(accelerator.device) for name, each in next(batches).items()}).loss
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
            if accelerator.sync_gradients:
                step += 1
                if watch.step(step, logs={"loss": loss.detach()}):
                    break
    accelerator.wait_for_everyone()
    accelerator.unwrap_model(model).save_pretrained(
        command.output / "final", is_main_process=accelerator.is_main_process
    )
    return watch


def main() -> None:
    # One process makes the toy model, and the others find it.
    with PartialState().main_process_first():
        command = read_command(__doc__, output="accelerate-run", steps=20)
    train(command, exercises())


if __name__ == "__main__":
    main()
