"""What the callback costs a Trainer run: the same run with it at every step and without it, in turns.

    python -m tests.benchmarks.overhead --device cpu --steps 24
    python -m tests.benchmarks.overhead --device cuda --steps 100 --tokens 512 --bf16

Two runs one after the other cannot be compared on a machine that does other work too: they differ by more than the
callback costs. So both are under way at once, and only ever one of them goes on: for one step on a CPU; for ten on a
GPU, where the weights of one step are read during the next one. Each step of one is compared with the same step of the
other. Where the service is installed, the callback reports to one on this machine, whose work these times include.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Before transformers is imported: no hub, no telemetry.
os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false")

import torch
from torch.utils.data import Dataset, SequentialSampler
from transformers import LlamaConfig, LlamaForCausalLM, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from monitor import SparsityCallback

WITHOUT, WITH = 0, 1
# Steps that a run goes on for.
IN_A_ROW = {"cpu": 1, "cuda": 10}
# Of these each, which are not counted.
WARM_UP = 2


class RandomTokens(Dataset[dict[str, torch.Tensor]]):
    """Sequences of random tokens."""

    def __init__(self, count: int, length: int, vocabulary: int) -> None:
        self._tokens = torch.randint(0, vocabulary, (count, length), generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self._tokens)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self._tokens[index], "labels": self._tokens[index]}


class Turns:
    """Lets one of two threads go on at a time: 0 1 1 0 0 1 1 0 …, so that neither always comes first."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._taken = 0
        self._failed = False

    def take(self, side: int) -> None:
        """Wait until it is this side's turn."""
        with self._condition:
            self._condition.wait_for(lambda: self._failed or (self._taken + 1) // 2 % 2 == side)
            if self._failed:
                raise RuntimeError("the other run has failed")

    def pass_on(self) -> None:
        """End this turn."""
        with self._condition:
            self._taken += 1
            self._condition.notify_all()

    def fail(self) -> None:
        """Let nobody wait any more."""
        with self._condition:
            self._failed = True
            self._condition.notify_all()


class InTurns(TrainerCallback):  # type: ignore[misc]
    """Goes on for some steps when it is this run's turn, and takes their time. Must be the last callback."""

    def __init__(self, turns: Turns, side: int, device: str) -> None:
        self._turns, self._side, self._device = turns, side, device
        self._began = 0.0
        self.seconds_per_step: list[float] = []

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self._begin()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        in_a_row = IN_A_ROW[self._device]
        if state.global_step % in_a_row:
            return
        if self._device == "cuda":
            torch.cuda.synchronize()
        self.seconds_per_step.append((time.perf_counter() - self._began) / in_a_row)
        self._turns.pass_on()
        if state.global_step < state.max_steps:
            self._begin()

    def _begin(self) -> None:
        self._turns.take(self._side)
        self._began = time.perf_counter()


class Timed(SparsityCallback):
    """Says how long the training waited for it at each step."""

    def __init__(self, target: str | None) -> None:
        super().__init__(target, "overhead")
        self.seconds: list[float] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.seconds.append(0.0)
        self._time(super().on_step_begin, *args, **kwargs)

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        self._time(super().on_pre_optimizer_step, *args, **kwargs)

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self._time(super().on_step_end, *args, **kwargs)

    def _time(self, event: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        started = time.perf_counter()
        event(*args, **kwargs)
        self.seconds[-1] += time.perf_counter() - started


class InOrder(Trainer):  # type: ignore[misc]
    """Both runs see the same data."""

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)


def make_model() -> LlamaForCausalLM:
    """Return a model of the 100M class, the same at each call, in float32 as TRL trains it."""
    config = LlamaConfig(
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=12,
        num_attention_heads=12,
        vocab_size=16_000,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config)


def train(
    model: LlamaForCausalLM, callbacks: list[Any], turns: Turns, side: int, arguments: argparse.Namespace
) -> tuple[list[float], Any]:
    """Return the seconds per step of each turn, and the losses."""
    in_turns = InTurns(turns, side, arguments.device)
    try:
        with tempfile.TemporaryDirectory() as directory:
            trainer = InOrder(
                model,
                TrainingArguments(
                    directory,
                    per_device_train_batch_size=arguments.sequences,
                    max_steps=arguments.steps,
                    learning_rate=1e-6,
                    logging_steps=1,
                    use_cpu=arguments.device == "cpu",
                    bf16=arguments.bf16,
                    report_to=[],
                    save_strategy="no",
                    disable_tqdm=True,
                ),
                train_dataset=RandomTokens(arguments.sequences * arguments.steps, arguments.tokens, 16_000),
                callbacks=[*callbacks, in_turns],
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train()
    except BaseException:
        turns.fail()
        raise
    losses = [(entry["loss"], entry["grad_norm"]) for entry in trainer.state.log_history if "loss" in entry]
    return in_turns.seconds_per_step, losses


@contextmanager
def a_service() -> Iterator[str | None]:
    """Run a service where it is installed, and return its address."""
    try:
        from tests.service.running import ServiceProcess
    except ImportError:
        yield None
        return
    with tempfile.TemporaryDirectory() as directory:
        service = ServiceProcess(Path(directory) / "store.db")
        try:
            yield service.client.listening.grpc_address
        finally:
            service.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--sequences", type=int, default=16, help="sequences in a step")
    parser.add_argument("--tokens", type=int, default=128, help="tokens in a sequence")
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16 by autocast, as TRL does by default")
    arguments = parser.parse_args()
    in_a_row = IN_A_ROW[arguments.device]
    if arguments.steps < (WARM_UP + 3) * in_a_row or arguments.steps % in_a_row:
        parser.error(
            f"--steps is {arguments.steps}; expected a multiple of {in_a_row}, from {(WARM_UP + 3) * in_a_row} on"
        )
    # Before there are two threads, which would share torch's random numbers.
    models = [make_model() for _ in (WITHOUT, WITH)]
    weights = sum(parameter.numel() for parameter in models[WITHOUT].parameters())
    turns = Turns()
    with a_service() as target, ThreadPoolExecutor(2) as threads:
        callback = Timed(target)
        sides = [
            threads.submit(train, models[side], callbacks, turns, side, arguments)
            for side, callbacks in ((WITHOUT, []), (WITH, [callback]))
        ]
        (without, losses), (observed, losses_observed) = [side.result() for side in sides]
    reporting = "recording only" if target is None else "reporting to a service on this machine"
    computed = ", bfloat16 autocast" if arguments.bf16 else ""
    size = f"{weights / 1e6:.0f}M weights, {arguments.sequences} × {arguments.tokens} tokens a step"
    print(f"{size}, {arguments.device}{computed}")
    print(f"{reporting}; losses and gradient norms are {'the same' if losses == losses_observed else 'DIFFERENT'}\n")
    # During the last turn of one run, the other one ends: it writes its mask and delivers.
    counted = slice(WARM_UP, -1)
    digits = 3 if arguments.device == "cpu" else 6
    print(table(without[counted], observed[counted], callback.seconds[WARM_UP * in_a_row :], digits))


def table(without: list[float], observed: list[float], in_callback: list[float], digits: int) -> str:
    """Return seconds per step, and the share of a step without, of which half of the pairs lie between the last two."""
    ratios = [after / before for before, after in zip(without, observed, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    spent, typical = statistics.median(in_callback), statistics.median(without)
    return (
        "| | seconds per step, median | share of the same step without, median | quartiles |\n|---|---|---|---|\n"
        f"| without the callback | {typical:.{digits}f} | 1 | |\n"
        f"| with it | {statistics.median(observed):.{digits}f} | {middle:.4f} | {low:.4f} to {high:.4f} |\n"
        f"| of this, in the callback | {spent:.{digits + 1}f} | {spent / typical:.4f} | |"
    )


if __name__ == "__main__":
    main()
