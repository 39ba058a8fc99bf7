"""The command line that the loops share: ppo.py, prime.py, plain_loop.py, accelerate_loop.py, lightning_callback.py."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from toy_addition import PRETRAINING_STEPS, pretrain


@dataclass(frozen=True)
class Command:
    """Which model directory to train, and how long; where to report to (None only keeps it), and where to write."""

    model: Path
    target: str | None
    output: Path
    steps: int
    seed: int


def read_command(description: str | None, output: str, steps: int) -> Command:
    """Read the command line; without a model, make the quickstart's."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument(
        "--model", type=Path, help="directory of the model to train; by default a toy made on the spot"
    )
    options.add_argument("--target", help="gRPC address of the service, host:port; by default nothing is sent")
    options.add_argument("--output", type=Path, default=Path(output), help="directory that everything is written to")
    options.add_argument("--steps", type=int, default=steps, help="optimizer steps")
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    return Command(given.model or _toy_model(given.output), given.target, given.output, given.steps, given.seed)


def _toy_model(output: Path) -> Path:
    directory = output / "base-model"
    # What is written last.
    if not (directory / "tokenizer.json").exists():
        print(f"making a toy model in {PRETRAINING_STEPS} steps")
        for _ in pretrain(directory):
            pass
    return directory
