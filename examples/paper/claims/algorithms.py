"""Reinforcement learning leaves most weights as they were, supervised fine-tuning few."""

from functools import partial

from paper import plots
from paper.claims.claim import Claim, Runs, at_tolerance, between, brief, judged, percent
from paper.experiments import ALGORITHMS

# Cumulative sparsity in percent, lowest and highest, where two weights that differ by no more than 1e-5 count as equal.
PUBLISHED = {
    "sft": (6.0, 15.0),
    "dpo": (81.4, 95.2),
    "simpo": (86.5, 86.5),
    "kto": (81.2, 96.0),
    "orpo": (76.9, 76.9),
    "grpo": (68.5, 86.0),
    "ppo": (80.8, 80.8),
    "prime": (77.0, 77.0),
}
_MOST = 0.5
_LEARNT = 0.02


def claim(runs: Runs) -> Claim:
    found = runs.named(ALGORITHMS)
    others = {name: result.sparsity for name, result in found if name != "sft"}
    # What learns nothing changes nothing, either.
    idle = [name for name, result in found if result.right_answers < runs.right_before + _LEARNT]
    sft = runs.results.get("sft")
    learnt = [sparsity for name, sparsity in others.items() if name not in idle]
    finding = ""
    if sft is not None and others:
        finding = (
            f"SFT leaves {percent(sft.sparsity)} of the weights as they were, bit for bit, and the others "
            f"{between(others.values())}. "
            f"{'All of them' if not idle else 'All but ' + ', '.join(idle)} answer better than the base model."
        )
    return Claim(
        title="Reinforcement learning changes few weights, supervised fine-tuning most",
        published=(
            "4–32 % of the weights change with seven algorithms, 85–94 % with SFT (arXiv 2505.11711, tolerance 1e-5; "
            "2507.17107: 5–30 %). By bits, RL leaves 36.3–91.7 % and SFT 0.6–18.8 % unchanged (2511.08567)."
        ),
        criterion=(
            "all but SFT leave more than half of the weights as they were, bit for bit, SFT fewer, and each gives at "
            "least 2 percentage points more right answers than the base model; in part, if those that do so are "
            "sparser than SFT."
        ),
        verdict=judged(
            runs,
            ALGORITHMS,
            lambda: min(others.values()) > _MOST > runs.results["sft"].sparsity and not idle,
            lambda: bool(learnt) and min(learnt) > runs.results["sft"].sparsity,
        ),
        finding=finding,
        header=("algorithm", "learning rate", "right answers", "sparsity, bits", "sparsity, 1e-5", "published, 1e-5"),
        rows=[
            (
                name,
                brief(result.experiment.learning_rate),
                percent(result.right_answers),
                percent(result.sparsity),
                percent(at_tolerance(result, 1e-5)),
                _range(name),
            )
            for name, result in found
        ],
        plot=(
            "algorithms",
            partial(
                plots.bars,
                labels=[name for name, _ in found],
                series={"this model, 1e-5": [100 * at_tolerance(result, 1e-5) for _, result in found]},
                unit="cumulative sparsity in %, tolerance 1e-5",
                published={name: PUBLISHED[name] for name, _ in found if name in PUBLISHED},
            ),
        ),
        why=(
            "The learning rates have the usual ratio of 1 : 20; the sections on texts and on optimizers show how much "
            "of the contrast comes from it. The single values say little about large models: they follow from the "
            "learning rate and the number of steps, which were chosen for a model that is a thousand times smaller. No "
            "figure was published for RLOO; RAFT++, which also samples from the policy, leaves 69.4 % unchanged. "
            "PPO is a loop of our own (examples/ppo.py); PRIME is our own on top of TRL's GRPOTrainer, with a reward "
            "model that is trained beside the policy (examples/prime.py); SimPO is TRL's CPO with the loss of SimPO; "
            "and the others are TRL's trainers."
        ),
    )


def _range(name: str) -> str:
    if name not in PUBLISHED:
        return "—"
    low, high = PUBLISHED[name]
    return f"{low:g} %" if low == high else f"{low:g}–{high:g} %"
