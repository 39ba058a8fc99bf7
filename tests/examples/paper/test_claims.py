from __future__ import annotations

from pathlib import Path

import pytest
from paper.claims import CLAIMS, algorithms, distribution, optimizers, random_masks, tolerance, variants
from paper.claims.claim import Runs, Verdict
from paper.experiments import DTYPES, FULL, RATES, all_experiments
from paper.place import Place
from paper.report import Made, write_report

from tests.examples.paper.made import result, runs


@pytest.mark.parametrize(
    ("sft", "grpo", "dpo", "verdict"),
    [
        (0.02, 0.8, 0.6, "shown"),
        (0.55, 0.8, 0.6, "shown in part"),  # the order is right, but SFT leaves most as they were
        (0.02, 0.8, 0.4, "shown in part"),
        (0.7, 0.8, 0.6, "not shown"),
    ],
)
def test_reinforcement_learning_has_to_be_sparser_than_sft(
    sft: float, grpo: float, dpo: float, verdict: Verdict
) -> None:
    assert algorithms.claim(runs(sft=sft, grpo=grpo, dpo=dpo)).verdict == verdict


def test_what_learns_nothing_is_no_sign_of_sparsity() -> None:
    made = runs(sft=0.02, grpo=0.8, dpo=0.9)
    idle = Runs({**made.results, "dpo": result("dpo", 1.0, right_answers=0.4)}, made.base, made.right_before)
    claim = algorithms.claim(idle)
    assert claim.verdict == "shown in part"
    assert "All but dpo answer better than the base model." in claim.finding


def test_a_claim_is_not_shown_by_one_side_of_a_comparison() -> None:
    assert algorithms.claim(runs(grpo=0.8)).verdict == "not run"
    assert algorithms.claim(runs(sft=0.02)).verdict == "not run"


def test_the_sparsity_at_a_tolerance_is_the_one_that_the_monitor_counted() -> None:
    kto = result("kto", 0.7, changed_at={"1e-08": 300, "1e-06": 290, "1e-05": 40, "0.0001": 10})
    claim = tolerance.claim(Runs({"kto": kto}, Path("base-model"), 0.4))
    assert claim.rows == [("kto", "70.0 %", "70.0 %", "71.0 %", "96.0 %", "99.0 %", "71.8 → 73.1 → 96.0")]
    assert claim.verdict == "shown"


@pytest.mark.parametrize(("kl", "verdict"), [(0.78, "shown"), (0.6, "shown in part")])
def test_a_variant_that_differs_much_is_counted(kl: float, verdict: Verdict) -> None:
    assert variants.claim(runs(grpo=0.8, grpo_kl=kl, grpo_off_policy=0.82)).verdict == verdict


def test_texts_of_another_distribution_have_to_lower_the_sparsity_at_one_learning_rate() -> None:
    at_one_rate = {"sft_at_rl_rate": 0.9, "sft_backwards_at_rl_rate": 0.6, "dpo": 0.8}
    assert distribution.claim(runs(**at_one_rate, dpo_backwards=0.1)).verdict == "shown"
    assert distribution.claim(runs(**at_one_rate, dpo_backwards=0.79)).verdict == "shown in part"
    assert distribution.claim(runs(dpo=0.8, dpo_backwards=0.8)).verdict == "not shown"


def test_the_table_of_optimizers_has_each_cell_and_judges_their_order() -> None:
    cells = {}
    for name, rates in RATES.items():
        for weights in DTYPES:
            for place, rate in enumerate(rates):
                run = (
                    "grpo"
                    if (name, weights, rate) == ("adamw", "bfloat16", 5e-5)
                    else f"grpo-{name}-{weights}-{rate:g}"
                )
                cells[run] = result(run, (0.9 if weights == "bfloat16" else 0.6) - 0.1 * place)
    claim = optimizers.claim(Runs(cells, Path("base-model"), 0.4))
    assert len(claim.rows) == 18
    assert claim.rows[0][:4] == ("adamw", "bfloat16", "1e-05", "90.00 %")
    assert claim.verdict == "shown"
    cells["grpo-sgd-float32-0.1"] = result("grpo-sgd-float32-0.1", 0.99)
    assert optimizers.claim(Runs(cells, Path("base-model"), 0.4)).verdict == "shown in part"


def test_what_has_no_result_is_told_and_leaves_the_rest(tmp_path: Path) -> None:
    place = Place(tmp_path, None)
    path = write_report(Made(all_experiments(), FULL, place, 0.4, {"grpo": "it broke"}, is_short=False), tmp_path)
    text = path.read_text()
    assert "- grpo: it broke" in text
    assert text.count("**Here: not run.**") == len(CLAIMS)
    assert "None" not in text


def test_random_masks_are_judged_by_the_gain_of_all_weights() -> None:
    claim = random_masks.claim(runs(grpo=0.8))
    assert claim.rows[0][-2:] == ("40.0 %", "—")
    assert claim.rows[1][-2:] == ("60.0 %", "+20.0")
    assert claim.verdict == "not run"
