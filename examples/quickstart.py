"""See the monitor at work on this machine: train a tiny model with GRPO and with SFT, and compare what changed.

bash examples/quickstart.sh            installs what this needs, then runs it
python examples/quickstart.py --once   ends after the tables, where the service otherwise goes on until Ctrl-C
"""

import argparse
import signal
import sys
import warnings
from pathlib import Path
from urllib.parse import urlencode

from datasets import Dataset, disable_progress_bars
from float32_products import Float32Products
from local_service import Service, ServiceError, show_in_browser, start_local_service
from quickstart_progress import ProgressLine, progress_lines
from quickstart_tables import Training, per_layer, summary
from rich.console import Console
from rich.progress import Progress
from toy_addition import (
    LONGEST_ANSWER,
    LONGEST_TEXT,
    PRETRAINING_STEPS,
    pretrain,
    right_answer,
    share_of_right_answers,
    solved_exercises,
)
from toy_training import SETTINGS
from transformers import PrinterCallback, Trainer
from transformers.utils import logging as transformers_logging
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from monitor import SparsityCallback

# Both are 50 times TRL's defaults, 1e-6 and 2e-5: in a model as narrow as this one, a weight has to move further to
# change the answers as much. Their ratio is the usual one, and with the bfloat16 weights below it is what makes the
# difference here, as arXiv 2511.08567 says of large models: at GRPO's learning rate SFT leaves 86 % of the weights
# unchanged, too, and at SFT's learning rate GRPO leaves 2 %.
GRPO_LEARNING_RATE = 5e-5
SFT_LEARNING_RATE = 1e-3
GRPO_STEPS = 200
SFT_STEPS = 100
BATCH = 128


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--once", action="store_true", help="end after the tables")
    options.add_argument("--directory", type=Path, default=Path("quickstart-runs"), help="where everything is kept")
    given = options.parse_args()
    given.directory.mkdir(parents=True, exist_ok=True)
    # So that the service is stopped then, too.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    # Bars of loading and tokenizing would come between the lines of progress.
    transformers_logging.disable_progress_bar()
    disable_progress_bars()
    # TRL still asks for it by its old name.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)

    console = Console()
    try:
        service = start_local_service(given.directory)
        console.print(f"Live page: http://{service.http_address}/")
        console.print("Cumulative sparsity: share of weights whose bfloat16 bits are as at first.")
        trainings = train_both(given.directory, service, console)
        console.print(summary(trainings), per_layer(trainings), sep="\n")
        console.print(*addresses(service, trainings), sep="\n", soft_wrap=True)
        if not given.once:
            show_in_browser(compared(service, trainings))
            console.print("Serving until Ctrl-C.")
            service.wait()
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except ServiceError as error:
        sys.exit(str(error))


def train_both(directory: Path, service: Service, console: Console) -> list[Training]:
    base = directory / "base-model"
    with progress_lines(console) as lines:
        pretraining = lines.add_task("base model", total=PRETRAINING_STEPS, shown="")
        for loss in pretrain(base):
            lines.update(pretraining, advance=1, shown=f"loss {loss:.2f}")
        shown_of_grpo, shown_of_sft = {"reward": "reward {:.2f}"}, {"loss": "loss {:.2f}"}
        return [
            observe(make_grpo_trainer(base, directory / "grpo"), "GRPO", shown_of_grpo, service, lines),
            observe(make_sft_trainer(base, directory / "sft"), "SFT", shown_of_sft, service, lines),
        ]


def make_grpo_trainer(base: Path, output: Path) -> Trainer:
    return GRPOTrainer(
        str(base),
        reward_funcs=right_answer,
        args=GRPOConfig(
            output_dir=str(output),
            learning_rate=GRPO_LEARNING_RATE,
            per_device_train_batch_size=BATCH,
            max_steps=GRPO_STEPS,
            num_generations=8,
            max_completion_length=LONGEST_ANSWER,
            **SETTINGS,
        ),
        train_dataset=Dataset.from_list(solved_exercises(GRPO_STEPS * BATCH // 8, seed=2)),
    )


def make_sft_trainer(base: Path, output: Path) -> Trainer:
    return SFTTrainer(
        str(base),
        args=SFTConfig(
            output_dir=str(output),
            learning_rate=SFT_LEARNING_RATE,
            per_device_train_batch_size=BATCH,
            max_steps=SFT_STEPS,
            max_length=LONGEST_TEXT,
            **SETTINGS,
        ),
        train_dataset=Dataset.from_list(solved_exercises(SFT_STEPS * BATCH, seed=3)),
    )


def observe(trainer: Trainer, name: str, shown: dict[str, str], service: Service, lines: Progress) -> Training:
    """Train with the monitor attached."""
    callback = SparsityCallback(
        service.grpc_address,
        run_name=f"quickstart {name}",
        labels={"algorithm": name, "dataset": "addition", "learning_rate": f"{trainer.args.learning_rate:g}"},
    ).attach(trainer)
    trainer.remove_callback(PrinterCallback)
    shown = {**shown, "sparsity/cumulative_sparsity": "cumulative sparsity {:.1%}"}
    trainer.add_callback(ProgressLine(lines, name, shown))
    with Float32Products():
        before = share_of_right_answers(trainer.model, trainer.processing_class)
        trainer.train()
        after = share_of_right_answers(trainer.model, trainer.processing_class)
    assert callback.run_id is not None
    assert callback.last_observation is not None
    return Training(name, callback.run_id, trainer.args.learning_rate, before, after, callback.last_observation)


def addresses(service: Service, trainings: list[Training]) -> list[str]:
    page = f"http://{service.http_address}"
    return [
        f"Live page           {page}/",
        *[f"  {training.name:<17} {page}/runs/{training.run_id}" for training in trainings],
        f"  {'both':<17} {compared(service, trainings)}",
        f"Prometheus metrics  {page}/metrics",
        f"gRPC, for your runs {service.grpc_address}",
    ]


def compared(service: Service, trainings: list[Training]) -> str:
    return f"http://{service.http_address}/compare?{urlencode([('run', training.run_id) for training in trainings])}"


if __name__ == "__main__":
    main()
