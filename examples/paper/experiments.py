"""The trainings that the claims need, as a list: what sets each one apart from the others."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

Algorithm = Literal["sft", "dpo", "simpo", "kto", "orpo", "rloo", "grpo", "ppo", "prime"]
Data = Literal["low", "high", "backwards"]
Weights = Literal["bfloat16", "float32"]
OptimizerName = Literal["adamw", "sgd", "muon"]

ALGORITHMS: tuple[Algorithm, ...] = ("sft", "dpo", "simpo", "kto", "orpo", "rloo", "grpo", "ppo", "prime")
# 50 times TRL's defaults, 1e-6 and 2e-5, as in the quickstart: in a model as narrow as the toy, a weight has to move
# further to change the answers as much. Their ratio is the usual one.
RL_RATE = 5e-5
SFT_RATE = 1e-3
# Three for each optimizer. Muon's are AdamW's, because its update is scaled to the same size. SGD's are of another
# kind: gradients are clipped to a norm of 1, so the rate is the length of a step. At 0.5 it learns no more.
RATES: dict[OptimizerName, tuple[float, float, float]] = {
    "adamw": (1e-5, RL_RATE, 2.5e-4),
    "muon": (1e-5, RL_RATE, 2.5e-4),
    "sgd": (0.004, 0.02, 0.1),
}
DTYPES: tuple[Weights, ...] = ("bfloat16", "float32")


@dataclass(frozen=True)
class Subnetwork:
    """The weights that alone are trained: those that another experiment changed, or ones at random.

    Attributes:
        of: name of the experiment whose update mask it is, or whose count of changed weights in each matrix is kept.
        random: take weights at random: as many as `of` changed, or without it `share` of each matrix.
        share: 0 to 1.
        seed: of the random choice.
    """

    of: str = ""
    random: bool = False
    share: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Experiment:
    """One training.

    Attributes:
        name: of its directory, and of its run.
        weights: dtype that the optimizer steps.
        settings: what else is given to TRL's configuration.
        only: what is trained; None for everything.
    """

    name: str
    algorithm: Algorithm
    data: Data = "low"
    seed: int = 0
    learning_rate: float = RL_RATE
    optimizer: OptimizerName = "adamw"
    weights: Weights = "bfloat16"
    settings: Mapping[str, float] = field(default_factory=dict)
    only: Subnetwork | None = None


@dataclass(frozen=True)
class Scale:
    """How large the experiments are.

    Attributes:
        steps: optimizer steps of each.
        batch: rows of a step; completions, where these are sampled.
        pretraining_steps: of the base model.
        exercises: that right answers are counted on.
    """

    steps: int
    batch: int
    pretraining_steps: int
    exercises: int


FULL = Scale(steps=150, batch=128, pretraining_steps=200, exercises=2048)
SHORT = Scale(steps=2, batch=16, pretraining_steps=2, exercises=16)


def all_experiments() -> list[Experiment]:
    """Return all experiments, each after those whose masks it needs."""
    return [*_algorithms(), *_causes(), *_subnetworks(), *_variants(), *_repeats(), *_grid()]


def short_experiments() -> list[Experiment]:
    """Return as many as each part of the code needs to run once."""
    wanted = {*ALGORITHMS, "dpo-high-seed1", "grpo-off-policy", "grpo-muon-float32-5e-05"}
    # Not of GRPO: so short, it may not sample one right answer to learn from.
    wanted |= {"dpo-subnetwork", "grpo-random-1-percent"}
    return [experiment for experiment in all_experiments() if experiment.name in wanted]


def _algorithms() -> list[Experiment]:
    return [
        Experiment(algorithm, algorithm, learning_rate=SFT_RATE if algorithm == "sft" else RL_RATE)
        for algorithm in ALGORITHMS
    ]


def _repeats() -> list[Experiment]:
    """With another seed, with other data, and with both."""
    return [
        Experiment(
            f"{algorithm}{suffix}", algorithm, data, seed, learning_rate=SFT_RATE if algorithm == "sft" else RL_RATE
        )
        for algorithm in ("grpo", "dpo", "sft")
        for suffix, data, seed in (("-seed1", "low", 1), ("-high", "high", 0), ("-high-seed1", "high", 1))
    ]


def _variants() -> list[Experiment]:
    """GRPO with what is said to matter little."""
    # 4 batches of one generation, each used 4 times: the sixteenth update is fifteen away from the policy that sampled.
    off_policy = {"steps_per_generation": 4, "num_iterations": 4}
    return [
        Experiment("grpo-kl", "grpo", settings={"beta": 0.04}),
        Experiment("grpo-no-gradient-clipping", "grpo", settings={"max_grad_norm": 0.0}),
        Experiment("grpo-off-policy", "grpo", settings=off_policy),
        # No ratio of probabilities gets that far.
        Experiment("grpo-off-policy-no-ratio-clipping", "grpo", settings={**off_policy, "epsilon": 1e6}),
    ]


def _causes() -> list[Experiment]:
    """What makes updates sparse: learning rate, or that the texts are the model's own? Sums backwards are not."""
    return [
        Experiment("sft-at-rl-rate", "sft"),
        Experiment("sft-backwards-at-rl-rate", "sft", "backwards"),
        Experiment("sft-backwards", "sft", "backwards", learning_rate=SFT_RATE),
        Experiment("dpo-backwards", "dpo", "backwards"),
        Experiment("grpo-at-sft-rate", "grpo", learning_rate=SFT_RATE),
    ]


def _grid() -> list[Experiment]:
    """GRPO with each optimizer, dtype of the weights, and learning rate, but for the one that is `grpo` itself."""
    cells = [
        Experiment(f"grpo-{name}-{weights}-{rate:g}", "grpo", learning_rate=rate, optimizer=name, weights=weights)
        for name, rates in RATES.items()
        for weights in DTYPES
        for rate in rates
    ]
    return [cell for cell in cells if (cell.optimizer, cell.weights, cell.learning_rate) != _DEFAULT_CELL]


_DEFAULT_CELL = ("adamw", "bfloat16", RL_RATE)


def _subnetworks() -> list[Experiment]:
    """Trainings of a part of the weights."""
    one_percent = Subnetwork(random=True, share=0.01)
    another = replace(one_percent, seed=1)
    return [
        Experiment("grpo-subnetwork", "grpo", only=Subnetwork("grpo")),
        Experiment("dpo-subnetwork", "dpo", only=Subnetwork("dpo")),
        Experiment("grpo-random-as-dense", "grpo", only=Subnetwork("grpo", random=True)),
        Experiment("grpo-random-1-percent", "grpo", only=one_percent),
        # So few weights have to move further.
        Experiment("grpo-random-1-percent-fast", "grpo", learning_rate=1e-3, only=one_percent),
        Experiment("grpo-random-1-percent-fast-other", "grpo", learning_rate=1e-3, only=another),
    ]
