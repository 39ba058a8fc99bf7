"""Training close to the policy's own distribution is what makes updates sparse: the cause that is named."""

from functools import partial

from paper import plots
from paper.claims.claim import Claim, Runs, brief, judged, percent

_SHOWN = (
    ("sft", "right answers", "6–15 %"),
    ("sft-backwards", "sums written backwards", "6.8 %"),
    ("sft-at-rl-rate", "right answers", "91.2 % (RFT)"),
    ("sft-backwards-at-rl-rate", "sums written backwards", "—"),
    ("dpo", "right answers preferred", "81.4 %"),
    ("dpo-backwards", "sums written backwards preferred", "6.8–7.7 %"),
    ("grpo", "its own", "68.5–86.0 %"),
    ("grpo-at-sft-rate", "its own", "—"),
)
_PAIRS = (("sft-at-rl-rate", "sft-backwards-at-rl-rate"), ("dpo", "dpo-backwards"))


def claim(runs: Runs) -> Claim:
    found = [shown for shown in _SHOWN if shown[0] in runs.results]
    pairs = [pair for pair in _PAIRS if runs.have(*pair)]
    drops = [runs.results[near].sparsity - runs.results[far].sparsity for near, far in pairs]
    finding = ""
    if drops:
        finding = (
            "At one learning rate, texts that the base model would not write lower the sparsity by "
            f"{', '.join(f'{100 * drop:.1f}' for drop in drops)} percentage points (SFT and DPO)."
            if len(drops) == len(_PAIRS)
            else "Only one of the two comparisons has finished."
        )
    if runs.have("sft", "sft-at-rl-rate", "grpo-at-sft-rate"):
        finding += (
            f" The learning rate alone takes SFT from {percent(runs.results['sft'].sparsity)} to "
            f"{percent(runs.results['sft-at-rl-rate'].sparsity)}, and GRPO at SFT's to "
            f"{percent(runs.results['grpo-at-sft-rate'].sparsity)}."
        )
    return Claim(
        title="Texts of the policy's own distribution make updates sparse",
        published=(
            "In-distribution, rejection-sampling fine-tuning leaves 91.2 % (RAFT++ 69.4 %) and DPO 81.4 % unchanged; "
            "out of distribution SFT leaves 6.8 % and DPO 6.8–7.7 % (arXiv 2505.11711, tolerance 1e-5)."
        ),
        criterion=(
            "at one learning rate, texts that the base model would not write lower the sparsity by at least 20 "
            "percentage points, with SFT and with DPO; in part, if by at least 5 with one of them."
        ),
        verdict=judged(runs, [name for name, _, _ in _SHOWN], lambda: min(drops) >= 0.2, lambda: max(drops) >= 0.05),
        finding=finding,
        header=("run", "texts", "learning rate", "sparsity, bits", "published, 1e-5"),
        rows=[
            (
                name,
                texts,
                brief(runs.results[name].experiment.learning_rate),
                percent(runs.results[name].sparsity),
                published,
            )
            for name, texts, published in found
        ],
        plot=(
            "distribution",
            partial(
                plots.bars,
                labels=[name for name, _, _ in found],
                series={"": [100 * runs.results[name].sparsity for name, _, _ in found]},
                unit="cumulative sparsity in %, bits",
            ),
        ),
        why=(
            "Sums written backwards are answers that the base model never gives, and so further from it than the texts "
            "of a published data set from a model that has read most of what there is. Right answers are not the "
            "model's own samples, but close to them: those that it gives to the half that it answers. GRPO at SFT's "
            "learning rate trains on its own samples alone, and so shows what the rate does by itself."
        ),
    )
