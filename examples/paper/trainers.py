"""TRL's trainers for the experiments, and PRIME's on top of one of them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import prime
from datasets import Dataset
from toy_addition import LONGEST_ANSWER, LONGEST_TEXT, right_answer
from toy_command import Command
from toy_training import SETTINGS
from transformers import AutoTokenizer, Trainer
from trl import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    KTOConfig,
    KTOTrainer,
    RLOOConfig,
    RLOOTrainer,
    SFTConfig,
    SFTTrainer,
)
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from paper.exercises import exercises, judged_answers, preferences
from paper.experiments import Experiment, Scale
from paper.optimizers import make_optimizer

GENERATIONS = 8
# So that each data set is the same for every seed, which only orders and samples: another seed is not other data.
DATA_SEED = 2


def make_trainer(experiment: Experiment, scale: Scale, base: Path, output: Path) -> Trainer:
    """Return the trainer of an experiment that is not PPO, with its optimizer."""
    settings = SETTINGS | {
        "output_dir": str(output),
        "max_steps": scale.steps,
        "seed": experiment.seed,
        "learning_rate": experiment.learning_rate,
        "per_device_train_batch_size": scale.batch,
        "model_init_kwargs": {"dtype": experiment.weights},
        "logging_steps": 1,
        **experiment.settings,
    }
    trainer = _MAKERS[experiment.algorithm](experiment, scale, base, settings)
    trainer.optimizer = make_optimizer(experiment.optimizer, trainer.model, experiment.learning_rate)
    return trainer


def _sft(experiment: Experiment, scale: Scale, base: Path, settings: Mapping[str, Any]) -> Trainer:
    data = Dataset.from_list(exercises(experiment.data, scale.steps * scale.batch, DATA_SEED))
    return SFTTrainer(str(base), SFTConfig(max_length=LONGEST_TEXT, **settings), train_dataset=data)


def _dpo(experiment: Experiment, scale: Scale, base: Path, settings: Mapping[str, Any]) -> Trainer:
    return DPOTrainer(str(base), args=DPOConfig(**settings), train_dataset=_pairs(experiment, scale))


def _simpo(experiment: Experiment, scale: Scale, base: Path, settings: Mapping[str, Any]) -> Trainer:
    return CPOTrainer(
        str(base),
        args=CPOConfig(loss_type="simpo", cpo_alpha=0.0, max_length=LONGEST_TEXT, **settings),
        train_dataset=_pairs(experiment, scale),
        processing_class=AutoTokenizer.from_pretrained(base),
    )


def _orpo(experiment: Experiment, scale: Scale, base: Path, settings: Mapping[str, Any]) -> Trainer:
    return ORPOTrainer(
        str(base),
        args=ORPOConfig(max_length=LONGEST_TEXT, **settings),
        train_dataset=_pairs(experiment, scale),
        processing_class=AutoTokenizer.from_pretrained(base),
    )


def _kto(experiment: Experiment, scale: Scale, base: Path, settings: Mapping[str, Any]) -> Trainer:
    data = Dataset.from_list(judged_answers(experiment.data, scale.steps * scale.batch, DATA_SEED))
    return KTOTrainer(str(base), args=KTOConfig(**settings), train_dataset=data)


def _grpo(experiment: Experiment, scale: Scale, base: Path, settings: Mapping[str, Any]) -> Trainer:
    config = GRPOConfig(num_generations=GENERATIONS, max_completion_length=LONGEST_ANSWER, **settings)
    return GRPOTrainer(str(base), reward_funcs=right_answer, args=config, train_dataset=_prompts(experiment, scale))


def _rloo(experiment: Experiment, scale: Scale, base: Path, settings: Mapping[str, Any]) -> Trainer:
    config = RLOOConfig(num_generations=GENERATIONS, max_completion_length=LONGEST_ANSWER, **settings)
    return RLOOTrainer(str(base), reward_funcs=right_answer, args=config, train_dataset=_prompts(experiment, scale))


def _prime(experiment: Experiment, scale: Scale, base: Path, settings: Mapping[str, Any]) -> Trainer:
    """PRIME as examples/prime.py has it, whose constants are those of the experiments."""
    command = Command(base, None, Path(settings["output_dir"]), scale.steps, experiment.seed)
    return prime.make_trainer(command, _prompts(experiment, scale)["prompt"], right_answer, scale.batch)


def _pairs(experiment: Experiment, scale: Scale) -> Dataset:
    return Dataset.from_list(preferences(experiment.data, scale.steps * scale.batch, DATA_SEED))


def _prompts(experiment: Experiment, scale: Scale) -> Dataset:
    # As many as the steps of an on-policy training take, and enough to generate from once.
    count = max(scale.steps * scale.batch // GENERATIONS, 64)
    return Dataset.from_list(exercises(experiment.data, count, DATA_SEED))


_MAKERS: dict[str, Callable[[Experiment, Scale, Path, Mapping[str, Any]], Trainer]] = {
    "sft": _sft,
    "dpo": _dpo,
    "simpo": _simpo,
    "kto": _kto,
    "orpo": _orpo,
    "rloo": _rloo,
    "grpo": _grpo,
    "prime": _prime,
}
