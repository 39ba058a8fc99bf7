"""Sparsity decays over time, and each step changes very few weights."""

from functools import partial

from paper import plots
from paper.claims.claim import Claim, Runs, judged, percent

_SHOWN = ("grpo", "rloo", "ppo", "prime", "dpo", "sft", "grpo-adamw-float32-5e-05")


def claim(runs: Runs) -> Claim:
    found = runs.named(_SHOWN)
    falls = is_small = False
    finding = ""
    if runs.have("grpo"):
        grpo = runs.results["grpo"]
        first, last = grpo.curve[0], grpo.curve[-1]
        falls, is_small = last[1] < first[1], last[2] > 0.95
        finding = (
            f"With GRPO, the cumulative sparsity falls from {percent(first[1])} after the first step to "
            f"{percent(last[1])} after the last one, which left {percent(last[2])} of the weights as they were; "
            f"{percent((grpo.touched - grpo.changed) / grpo.trained)} moved and came back."
        )
    return Claim(
        title="Each step changes few weights, and they add up",
        published=(
            "Cumulative sparsity decays to about 80 % (PRIME, 21 checkpoints): 72 % of the weights never change, 8 % "
            "change and come back, 20 % end up changed (arXiv 2505.11711). One step of GRPO in bfloat16 leaves "
            "98.9–99.8 % unchanged, of SFT 96.0–98.2 % (2602.03839); with float32 master weights many more change."
        ),
        criterion=(
            "with GRPO, the cumulative sparsity is lower at the end than after the first step, and the last step left "
            "more than 95 % of the weights as they were; in part, if the first is so."
        ),
        verdict=judged(runs, _SHOWN, lambda: falls and is_small, lambda: falls),
        finding=finding,
        header=("run", "never changed", "changed and came back", "changed at the end", "last step left unchanged"),
        rows=[
            (
                name,
                percent(1 - result.touched / result.trained),
                percent((result.touched - result.changed) / result.trained),
                percent(result.changed / result.trained),
                percent(1 - result.step_changed / result.trained),
            )
            for name, result in found
        ],
        plot=(
            "over-time",
            partial(
                plots.lines,
                curves={name: [(step, 100 * total) for step, total, _ in result.curve] for name, result in found},
                across="optimizer step",
                unit="cumulative sparsity in %, bits",
            ),
        ),
        why=(
            "Changed and come back is seen here at every step, and there between checkpoints, which miss most of it. "
            "The steps are large beside those of large models, because there are few of them."
        ),
    )
