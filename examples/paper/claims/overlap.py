"""Runs with other seeds, data and algorithms change the same weights more often than chance."""

from functools import partial

from paper import plots
from paper.claims.claim import Claim, Runs, judged, number, percent
from paper.subnetworks import random_control

# What differs, the two runs, and the published chance o₁ / o₂ → observed o₁ / o₂ in percent.
PAIRS = (
    ("seed", "grpo", "grpo-seed1", "36.7 / 36.7 → 60.5 / 60.6"),
    ("seed, DPO", "dpo", "dpo-seed1", ""),
    ("seed, SFT", "sft", "sft-seed1", ""),
    ("data", "grpo", "grpo-high", "14.6 / 36.7 → 26.7 / 67.1"),
    ("data, DPO", "dpo", "dpo-high", ""),
    ("data, SFT", "sft", "sft-high", ""),
    ("data, seed", "grpo", "grpo-high-seed1", ""),
    ("data, seed, SFT", "sft", "sft-high-seed1", ""),
    ("algorithm", "grpo", "rloo", ""),
    ("algorithm", "grpo", "ppo", ""),
    ("algorithm", "grpo", "dpo", ""),
    ("seed, data, algorithm", "grpo", "dpo-high-seed1", "23.0 / 12.9 → 59.1 / 33.2"),
    ("seed, data, algorithm", "dpo", "grpo-high-seed1", ""),
)
_ABOVE_CHANCE = 1.2


def claim(runs: Runs) -> Claim:
    found = [pair for pair in PAIRS if runs.have(*pair[1:3])]
    rows, labels, lifts = [], [], {}
    observed, by_chance, controlled = [], [], []
    for varied, first, second, published in found:
        mask, other = runs.results[first].mask(), runs.results[second].mask()
        overlap = mask.overlap(other)
        control = mask.overlap(random_control(other, seed=0))
        labels.append(f"{first}, {second}")
        lifts[first, second] = overlap.lift
        observed.append(100 * overlap.o1)
        by_chance.append(100 * overlap.expected_o1)
        controlled.append(100 * control.o1)
        rows.append(
            (
                varied,
                f"{first}, {second}",
                f"{percent(overlap.expected_o1)} / {percent(overlap.expected_o2)}",
                f"{percent(overlap.o1)} / {percent(overlap.o2)}",
                percent(control.o1),
                number(overlap.lift, 2),
                published or "—",
            )
        )
    of_rl = [lift for pair, lift in lifts.items() if "sft" not in pair]
    return Claim(
        title="Runs of other seeds, data and algorithms change the same weights",
        published=(
            "The changed weights of two runs coincide far more than by chance: o₁ 60.5 % where chance gives 36.7 % "
            "with another seed, and 59.1 % where it gives 23.0 % with another seed, data and algorithm (arXiv "
            "2505.11711, 2507.17107). Jaccard 0.55–0.60 where chance gives 0.37–0.47 (2511.08567)."
        ),
        criterion=(
            "each two runs but those of SFT have at least 1.2 times as many changed weights in common as chance gives; "
            "in part, if some have."
        ),
        verdict=judged(
            runs,
            [name for pair in PAIRS for name in pair[1:3]],
            # Not by the smallest: where a run changed nothing, there is no lift, and that is no sign of one.
            lambda: all(lift > _ABOVE_CHANCE for lift in of_rl),
            lambda: any(lift > _ABOVE_CHANCE for lift in of_rl),
        ),
        finding=(
            f"Two runs have {number(min(of_rl), 2)} to {number(max(of_rl), 2)} times as many changed weights in common "
            "as chance gives within each matrix; a random mask of the same count in each has what chance gives."
            if of_rl
            else ""
        ),
        header=(
            "varied",
            "runs",
            "chance o₁ / o₂",
            "observed o₁ / o₂",
            "random control o₁",
            "lift",
            "published, in %",
        ),
        rows=rows,
        plot=(
            "overlap",
            partial(
                plots.bars,
                labels=labels,
                series={"observed": observed, "random control": controlled, "chance": by_chance},
                unit="o₁ in %",
            ),
        ),
        why=(
            "The two data sets are exercises of one kind, without a common one, and not two kinds of tasks. In "
            "bfloat16 an optimizer such as AdamW, whose steps have about the same size for every weight, changes those "
            "that are small enough for such a step to be visible: two runs with nothing in common but the base would "
            "coincide for this reason alone. So overlap tells where the optimizer can go, and the section on random "
            "masks, what is needed. The lift is stratified by matrix; o₁ by chance is not, as in the publication, and "
            "the control has the same count in each matrix."
        ),
    )
