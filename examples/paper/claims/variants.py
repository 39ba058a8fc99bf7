"""KL penalty, clipping and on-policy-ness matter little."""

from functools import partial

from paper import plots
from paper.claims.claim import Claim, Runs, judged, percent

_SHOWN = (
    ("grpo", "on-policy, clipped gradients, no KL penalty"),
    ("grpo-kl", "KL penalty of 0.04"),
    ("grpo-no-gradient-clipping", "gradients not clipped"),
    ("grpo-off-policy", "16 updates from each set of samples"),
    ("grpo-off-policy-no-ratio-clipping", "the same, ratio of probabilities not clipped"),
)
_LITTLE = 0.05


def claim(runs: Runs) -> Claim:
    found = [(name, varied) for name, varied in _SHOWN if name in runs.results]
    others = {
        name: runs.results[name].sparsity - runs.results["grpo"].sparsity
        for name, _ in found
        if runs.have("grpo") and name != "grpo"
    }
    near = [name for name, difference in others.items() if abs(difference) <= _LITTLE]
    return Claim(
        title="KL penalty, clipping and on-policy-ness matter little",
        published=(
            "GRPO leaves 69.8 % with and 68.8 % without a KL penalty; gradient clipping and on-policy-ness have a "
            "limited effect (arXiv 2505.11711, 2507.17107)."
        ),
        criterion="each variant is within 5 percentage points of plain GRPO's sparsity; in part, if some are.",
        verdict=judged(runs, [name for name, _ in _SHOWN], lambda: len(near) == len(others), lambda: bool(near)),
        finding=(
            f"{len(near)} of {len(others)} variants stay within {100 * _LITTLE:.0f} percentage points of plain GRPO; "
            f"the differences are {', '.join(f'{100 * each:+.1f}' for each in others.values())}."
            if others
            else ""
        ),
        header=("run", "what it is", "right answers", "sparsity, bits", "published"),
        rows=[
            (
                name,
                varied,
                percent(runs.results[name].right_answers),
                percent(runs.results[name].sparsity),
                {"grpo": "68.8 %", "grpo-kl": "69.8 %"}.get(name, "limited effect"),
            )
            for name, varied in found
        ],
        plot=(
            "variants",
            partial(
                plots.bars,
                labels=[name for name, _ in found],
                series={"this model": [100 * runs.results[name].sparsity for name, _ in found]},
                unit="cumulative sparsity in %, bits",
                published={
                    name: values
                    for name, values in {"grpo": (68.8, 68.8), "grpo-kl": (69.8, 69.8)}.items()
                    if runs.have(name)
                },
            ),
        ),
        why=(
            "Clipping scales a gradient as a whole, and AdamW divides by the size that gradients have had, so that its "
            "steps hardly depend on it. A KL penalty pulls little as long as the policy is near the base model, as "
            "after so few steps. Off-policy, all steps together see no more than ten sets of samples."
        ),
    )
