"""One experiment, from the base model to its result: what a process of its own does."""

import multiprocessing
import os
import threading
import time
from multiprocessing.connection import wait
from pathlib import Path

import ppo
import torch
from datasets import disable_progress_bars
from float32_products import Float32Products
from toy_addition import pretrain, right_answer, share_of_right_answers
from toy_command import Command
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from monitor import Observation, SparsityCallback
from paper.exercises import exercises
from paper.experiments import Experiment, Scale
from paper.place import LOG_FILE, Place
from paper.results import WEIGHTS_FOLDER, settings_of, write_result
from paper.subnetworks import mask_to_train, train_only
from paper.trainers import DATA_SEED, make_trainer

# Those of arXiv 2505.11711, and one above.
TOLERANCES = (1e-8, 1e-6, 1e-5, 1e-4)

Curve = list[tuple[int, float, float]]


def run(experiment: Experiment, scale: Scale, place: Place) -> None:
    """Train, and write the result; what is said on the way goes to a file beside it."""
    directory = place.directory(experiment.name)
    _work_alone(directory / LOG_FILE)
    started, process_started = time.monotonic(), time.process_time()
    train = _train_by_hand if experiment.algorithm == "ppo" else _train_with_trainer
    with Float32Products():
        run_id, curve, last = train(experiment, scale, place)
        seconds = time.monotonic() - started, time.process_time() - process_started
        answered = _right_answers(directory / WEIGHTS_FOLDER, place.base, scale)
    write_result(directory, settings_of(experiment, scale), run_id, seconds, answered, last=last, curve=curve)


def make_base(scale: Scale, place: Place) -> None:
    """Make the model that every experiment starts from, and see how it answers."""
    _work_alone(place.base / LOG_FILE)
    for step, loss in enumerate(pretrain(place.base, scale.pretraining_steps), start=1):
        print(f"step {step}: loss {loss:.3f}")
    with Float32Products():
        answered = _right_answers(place.base, place.base, scale)
    place.keep_right_answers_of_base(scale, answered)


def _train_with_trainer(experiment: Experiment, scale: Scale, place: Place) -> tuple[str, Curve, Observation]:
    directory = place.directory(experiment.name)
    trainer = make_trainer(experiment, scale, place.base, directory)
    if experiment.only is not None:
        train_only(mask_to_train(experiment.only, trainer.model, place.output), trainer)
    callback = SparsityCallback(
        place.target, f"paper {experiment.name}", labels=_labels(experiment), tolerances=TOLERANCES
    ).attach(trainer)
    trainer.train()
    trainer.save_model(str(directory / WEIGHTS_FOLDER))
    assert callback.run_id is not None
    assert callback.last_observation is not None
    curve = [
        (entry["step"], entry["sparsity/cumulative_sparsity"], entry["sparsity/step_sparsity"])
        for entry in trainer.state.log_history
        if "sparsity/step_sparsity" in entry
    ]
    return callback.run_id, curve, callback.last_observation


def _train_by_hand(experiment: Experiment, scale: Scale, place: Place) -> tuple[str, Curve, Observation]:
    """PPO as examples/ppo.py has it, whose constants are those of the experiments."""
    curve: Curve = []

    def seen(observation: Observation) -> None:
        assert observation.step_sparsity is not None
        curve.append((observation.step, observation.cumulative_sparsity, observation.step_sparsity))

    prompts = [row["prompt"] for row in exercises(experiment.data, scale.steps * scale.batch, DATA_SEED)]
    run_id, last = ppo.train(
        Command(place.base, place.target, place.directory(experiment.name), scale.steps, experiment.seed),
        prompts,
        right_answer,
        name=f"paper {experiment.name}",
        labels=_labels(experiment),
        # Each step takes a part of them.
        rollout=scale.batch * ppo.MINIBATCHES,
        tolerances=TOLERANCES,
        seen=seen,
    )
    return run_id, curve, last


def _labels(experiment: Experiment) -> dict[str, str]:
    return {
        "algorithm": experiment.algorithm.upper(),
        "dataset": experiment.data,
        "seed": str(experiment.seed),
        "optimizer": experiment.optimizer,
        "learning_rate": f"{experiment.learning_rate:g}",
        "weights": experiment.weights,
    }


def _right_answers(weights: Path, base: Path, scale: Scale) -> float:
    # As they would be served, whatever the optimizer stepped.
    model = AutoModelForCausalLM.from_pretrained(weights, dtype=torch.bfloat16)
    return share_of_right_answers(model, AutoTokenizer.from_pretrained(base), scale.exercises)


def _work_alone(log: Path) -> None:
    """Say everything to a file, use one thread, and end when the process that started this one does."""
    log.parent.mkdir(parents=True, exist_ok=True)
    opened = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    for stream in (1, 2):
        os.dup2(opened, stream)
    torch.set_num_threads(1)
    transformers_logging.disable_progress_bar()
    disable_progress_bars()
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    # A parent that was killed cannot end its children, which another command would then meet in their directories.
    wait([sentinel])
    os._exit(1)
