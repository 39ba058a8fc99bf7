"""The counter-claim: weights at random do as well."""

from functools import partial

from paper import plots
from paper.claims.claim import Claim, Runs, brief, judged, percent

_FULL = "grpo"
_SHOWN = (
    ("grpo", "all weights"),
    ("grpo-subnetwork", "those that full training changes"),
    ("grpo-random-as-dense", "as many in each matrix, at random"),
    ("grpo-random-1-percent", "1 % at random"),
    ("grpo-random-1-percent-fast", "1 % at random, higher learning rate"),
    ("grpo-random-1-percent-fast-other", "another 1 % at random, higher learning rate"),
)
_FAST = ("grpo-random-1-percent-fast", "grpo-random-1-percent-fast-other")


def claim(runs: Runs) -> Claim:
    found = [(name, trained) for name, trained in _SHOWN if name in runs.results]
    gains = {name: runs.results[name].right_answers - runs.right_before for name, _ in found}
    reached, finding = [0.0], ""
    if gains.get(_FULL, 1.0) <= 0:
        finding = "Training all weights brought no gain, so that there is none to compare with."
    elif runs.have(_FULL, *_FAST):
        reached = [gains[name] / gains[_FULL] for name in _FAST]
        first, second = (runs.results[name].mask() for name in _FAST)
        finding = (
            f"1 % of the weights at random bring {', '.join(percent(each, 0) for each in reached)} of the gain of all "
            f"of them; of the weights that the two of them change, the Jaccard index is "
            f"{first.overlap(second).jaccard:.4f}."
        )
    return Claim(
        title="Random weights do as well: the counter-claim",
        published=(
            "Random masks of 1 % match full reinforcement learning on three models, and masks that succeed overlap as "
            "chance has it (arXiv 2602.01599). For on-policy distillation random masks of equal density do worse than "
            "the subnetwork (2606.13657)."
        ),
        criterion=(
            "both random masks of 1 %, at the higher learning rate, bring at least 90 % of the gain of all weights; in "
            "part, if one brings at least half."
        ),
        verdict=judged(runs, [name for name, _ in _SHOWN], lambda: min(reached) >= 0.9, lambda: max(reached) >= 0.5),
        finding=finding,
        header=("run", "trained weights", "learning rate", "changed weights", "right answers", "gain, points"),
        rows=[
            ("base", "none", "—", "0", percent(runs.right_before), "—"),
            *(
                (
                    name,
                    trained,
                    brief(runs.results[name].experiment.learning_rate),
                    f"{runs.results[name].changed:,}",
                    percent(runs.results[name].right_answers),
                    f"{100 * gains[name]:+.1f}",
                )
                for name, trained in found
            ),
        ],
        plot=(
            "random-masks",
            partial(
                plots.bars,
                labels=["base", *(name for name, _ in found)],
                series={
                    "": [100 * runs.right_before, *(100 * runs.results[name].right_answers for name, _ in found)],
                },
                unit="right answers in %",
            ),
        ),
        why=(
            "The toy is asked for little, to answer instead of leaving an exercise open, and 1 % of it are 8 thousand "
            "weights where large models have millions."
        ),
    )
