"""What the callback costs a Trainer run: steps with and without it take turns within one run.

    python -m tests.benchmarks.overhead --device cpu --steps 12
    python -m tests.benchmarks.overhead --device cuda --steps 100

Whole runs cannot be compared on a machine that does other work too: they differ by more than the callback costs. On a
GPU, the weights of one step are read during the next one, so there ten steps with the callback take turns with ten
without, and the first of each ten is left out.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from typing import Any

# Before transformers is imported: no hub, no telemetry.
os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false")

import torch
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

from monitor import SparsityCallback

# Steps that are observed, or not, in a row.
IN_A_ROW = {"cpu": 1, "cuda": 10}


class RandomTokens(Dataset[dict[str, torch.Tensor]]):
    """Sequences of random tokens."""

    def __init__(self, count: int, length: int, vocabulary: int) -> None:
        self._tokens = torch.randint(0, vocabulary, (count, length), generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self._tokens)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self._tokens[index], "labels": self._tokens[index]}


class Timed(SparsityCallback):
    """Observes some of the steps, and says how long that took."""

    def __init__(self, in_a_row: int) -> None:
        super().__init__(None)
        self._in_a_row = in_a_row
        self.seconds: dict[int, float] = {}

    def observes(self, step: int) -> bool:
        """Return whether the step is one of those with the callback."""
        return step // self._in_a_row % 2 == 0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self.observes(state.global_step):
            return
        started = time.perf_counter()
        super().on_step_end(args, state, control, **kwargs)
        self.seconds[state.global_step] = time.perf_counter() - started


class StepTimes(TrainerCallback):  # type: ignore[misc]
    """Takes the time from the end of one step to the end of the next, after the other callbacks."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._last = 0.0
        self.seconds: dict[int, float] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._device == "cuda":
            # Not the whole device: what is measured beside the training is not waited for.
            torch.cuda.current_stream().synchronize()
        now = time.perf_counter()
        if self._last:
            self.seconds[state.global_step] = now - self._last
        self._last = now


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--sequences", type=int, default=16, help="sequences in a step")
    parser.add_argument("--tokens", type=int, default=128, help="tokens in a sequence")
    arguments = parser.parse_args()
    config = LlamaConfig(
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=12,
        num_attention_heads=12,
        vocab_size=16_000,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    weights = sum(parameter.numel() for parameter in model.parameters())
    with tempfile.TemporaryDirectory() as directory:
        observing, steps = Timed(IN_A_ROW[arguments.device]), StepTimes(arguments.device)
        trainer = Trainer(
            model,
            TrainingArguments(
                directory,
                per_device_train_batch_size=arguments.sequences,
                max_steps=arguments.steps,
                learning_rate=1e-6,
                use_cpu=arguments.device == "cpu",
                report_to=[],
                save_strategy="no",
                disable_tqdm=True,
            ),
            train_dataset=RandomTokens(arguments.sequences * arguments.steps, arguments.tokens, config.vocab_size),
            callbacks=[observing, steps],
        )
        trainer.train()
    in_a_row = IN_A_ROW[arguments.device]
    # The first two steps warm up.
    counted = [step for step in steps.seconds if step > 2 and (in_a_row == 1 or step % in_a_row)]
    with_it = [steps.seconds[step] for step in counted if observing.observes(step)]
    without = [steps.seconds[step] for step in counted if not observing.observes(step)]
    spent = [observing.seconds[step] for step in counted if observing.observes(step)]
    typical = statistics.median(without)
    print(
        f"{weights / 1e6:.0f}M weights, {arguments.sequences} × {arguments.tokens} tokens a step, {arguments.device}\n"
    )
    print("| | seconds per step, median | share of a step without |\n|---|---|---|")
    print(f"| steps without the callback | {typical:.3f} | 1 |")
    print(f"| steps with it | {statistics.median(with_it):.3f} | {statistics.median(with_it) / typical:.4f} |")
    print(f"| of these, in the callback | {statistics.median(spent):.4f} | {statistics.median(spent) / typical:.4f} |")


if __name__ == "__main__":
    main()
