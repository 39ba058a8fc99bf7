"""Fine-tuning in a plain PyTorch loop, as torchtune's recipes are: accumulated gradients, checkpoints, and a resume.

python examples/plain_loop.py --target localhost:50051 --steps 20
python examples/plain_loop.py --target localhost:50051 --steps 40    # goes on from the checkpoint of step 20
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from toy_addition import solved_exercises
from toy_command import Command, read_command
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

import monitor

BATCH = 32
ACCUMULATION = 2


class Recipe:
    """Holds what a checkpoint has of a training, as torchtune's recipes do."""

    def __init__(self, command: Command) -> None:
        torch.manual_seed(command.seed)
        self.command = command
        self.checkpoint = command.output / "checkpoint"
        self.tokenizer = AutoTokenizer.from_pretrained(command.model)
        self.model = AutoModelForCausalLM.from_pretrained(command.model, dtype=torch.bfloat16)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)
        self.step = 0
        if (self.checkpoint / "recipe.pt").exists():
            self._load()

    def train(self, texts: Sequence[str]) -> monitor.Watch:
        """Train until the planned steps are made; what was trained is in `final` in the output directory then."""
        batches = batches_of(self.tokenizer, texts, self.command.seed)
        with monitor.watch(
            self.model,
            self.command.target,
            "plain loop",
            labels={"algorithm": "SFT", "seed": str(self.command.seed)},
            # Read again from there when the training is resumed, whose weights are not the base.
            base=self.command.model,
            on_dense="stop",
            output_dir=self.command.output,
            resume_from=self.checkpoint if self.step else None,
            planned_steps=self.command.steps,
        ) as watch:
            while self.step < self.command.steps:
                loss = self._learn(batches)
                self.step += 1
                if watch.step(self.step, logs={"loss": loss}):
                    break
            self._save()
            watch.save(self.checkpoint)
        self.model.save_pretrained(self.command.output / "final")
        return watch

    def _learn(self, batches: Iterator[dict[str, torch.Tensor]]) -> float:
        self.optimizer.zero_grad()
        total = 0.0
        for _ in range(ACCUMULATION):
            loss = self.model(**next(batches)).loss / ACCUMULATION
            loss.backward()
            total += loss.item()
        self.optimizer.step()
        return total

    def _save(self) -> None:
        self.checkpoint.mkdir(parents=True, exist_ok=True)
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "step": self.step}
        torch.save(state, self.checkpoint / "recipe.pt")

    def _load(self) -> None:
        state = torch.load(self.checkpoint / "recipe.pt", weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]


def batches_of(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], seed: int
) -> Iterator[dict[str, torch.Tensor]]:
    """Yield, without end, batches of texts drawn at random, with padding that no loss is taken of."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        rows = torch.randint(len(texts), (BATCH,), generator=generator).tolist()
        batch = tokenizer([texts[row] for row in rows], padding=True, return_tensors="pt")
        tokens, attention = batch["input_ids"], batch["attention_mask"]
        labels = tokens.masked_fill(attention == 0, -100)
        yield {"input_ids": tokens, "attention_mask": attention, "labels": labels}


def exercises() -> list[str]:
    """The texts of the toy task."""
    return [row["prompt"] + row["completion"] for row in solved_exercises(10_000, seed=2)]


def main() -> None:
    command = read_command(__doc__, output="plain-run", steps=20)
    Recipe(command).train(exercises())
    print(f"the model is in {Path(command.output) / 'final'}")


if __name__ == "__main__":
    main()
