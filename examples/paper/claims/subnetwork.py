"""Training the changed weights alone gives nearly the same model."""

from functools import partial

from paper import plots
from paper.claims.claim import Claim, Runs, between, judged, percent
from paper.comparison import share_equal

TOLERANCES = (0.0, 1e-5, 1e-4)
_PAIRS = (("grpo", "grpo-subnetwork"), ("dpo", "dpo-subnetwork"), ("grpo", "grpo-seed1"), ("dpo", "dpo-seed1"))


def claim(runs: Runs) -> Claim:
    found = [pair for pair in _PAIRS if runs.have(*pair)]
    shares = {pair: share_equal(runs.results[pair[0]], runs.results[pair[1]], TOLERANCES) for pair in found}
    alone = [pair for pair in found if pair[1].endswith("-subnetwork")]
    equal = [shares[pair][1e-5] for pair in alone]
    rewards = [runs.results[second].right_answers - runs.results[first].right_answers for first, second in alone]
    return Claim(
        title="The subnetwork alone gives nearly the same model",
        published=(
            "Trained with the gradients of the changed weights only, the model has 94.0 % (DPO) and 90.5 % (PRIME) of "
            "its weights equal to the fully trained one at 1e-5, 100 % at 1e-4, and answers as well or better (arXiv "
            "2505.11711, 2507.17107)."
        ),
        criterion=(
            "at least 90 % of the weights are equal at 1e-5, and the subnetwork gives at most 3 percentage points "
            "fewer right answers, with GRPO and with DPO; in part, if one of the two is so."
        ),
        verdict=judged(
            runs,
            [name for pair in _PAIRS for name in pair],
            lambda: min(equal) >= 0.9 and min(rewards) > -0.03,
            lambda: min(equal) >= 0.9 or min(rewards) > -0.03,
        ),
        finding=(
            f"{between(equal)} of the weights are those of full training at 1e-5, and "
            f"the right answers differ by {', '.join(f'{100 * each:+.1f}' for each in rewards)} percentage points."
            if alone
            else ""
        ),
        header=("runs", "right answers", "equal bits", "equal at 1e-5", "equal at 1e-4", "published, 1e-5 → 1e-4"),
        rows=[
            (
                f"{first}, {second}",
                f"{percent(runs.results[first].right_answers)}, {percent(runs.results[second].right_answers)}",
                *(percent(shares[first, second][tolerance]) for tolerance in TOLERANCES),
                {"dpo-subnetwork": "94.0 → 100 %", "grpo-subnetwork": "90.5 → 100 % (PRIME)"}.get(second, "—"),
            )
            for first, second in found
        ],
        plot=(
            "subnetwork",
            partial(
                plots.bars,
                labels=[f"{first}, {second}" for first, second in found],
                series={
                    f"equal at {tolerance:g}" if tolerance else "equal bits": [
                        100 * shares[pair][tolerance] for pair in found
                    ]
                    for tolerance in TOLERANCES
                },
                unit="weights in %",
            ),
        ),
        why=(
            "The weights outside of the subnetwork are equal by construction, and they are most: the rows of two seeds "
            "show how many are equal where nothing was held back. Equal at 1e-4 means less here than in a large model, "
            "whose changes are mostly smaller than that."
        ),
    )
