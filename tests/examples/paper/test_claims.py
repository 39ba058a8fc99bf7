from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from paper.claims import CLAIMS, algorithms, distribution, optimizers, overlap, random_masks, tolerance, variants
from paper.claims.claim import Runs
from paper.experiments import ALGORITHMS, DTYPES, FULL, RATES, all_experiments
from paper.place import Place
from paper.report import Made, write_report
from paper.results import MASK_FILE

from monitor import UpdateMask
from tests.examples.paper.made import result, runs


def of_all_algorithms(**sparsities: float) -> Runs:
    return runs(**dict.fromkeys(ALGORITHMS, 0.9) | sparsities)


@pytest.mark.parametrize(
    ("sft", "grpo", "dpo", "verdict"),
    [
        (0.02, 0.8, 0.6, "shown"),
        (0.55, 0.8, 0.6, "shown in part"),  # the order is right, but SFT leaves most as they were
        (0.02, 0.8, 0.4, "shown in part"),
        (0.7, 0.8, 0.6, "not shown"),
    ],
)
def test_reinforcement_learning_has_to_be_sparser_than_sft(sft: float, grpo: float, dpo: float, verdict: str) -> None:
    assert algorithms.claim(of_all_algorithms(sft=sft, grpo=grpo, dpo=dpo)).verdict == verdict


def test_what_learns_nothing_is_no_sign_of_sparsity() -> None:
    made = of_all_algorithms(sft=0.02, grpo=0.8)
    idle = Runs({**made.results, "dpo": result("dpo", 1.0, right_answers=0.4)}, made.base, made.right_before)
    claim = algorithms.claim(idle)
    assert claim.verdict == "shown in part"
    assert "All but dpo answer better than the base model." in claim.finding
    results = {name: result(name, 1.0, right_answers=0.4) for name in ALGORITHMS if name != "sft"}
    assert algorithms.claim(Runs({**made.results, **results}, made.base, made.right_before)).verdict == "not shown"


@pytest.mark.parametrize("number", range(len(CLAIMS)))
def test_nothing_is_judged_by_a_part_of_its_runs(number: int) -> None:
    some = Runs({"sft-seed1": result("sft-seed1", 0.02)}, Path("base-model"), 0.4)
    assert re.fullmatch(r"cannot be said: [01] of \d+ runs", CLAIMS[number](some).verdict)


def test_a_claim_whose_runs_have_not_all_finished_says_how_many_have() -> None:
    made = of_all_algorithms(sft=0.02)
    results = {name: found for name, found in made.results.items() if name != "ppo"}
    claim = algorithms.claim(Runs(results, made.base, made.right_before))
    assert claim.verdict == "cannot be said: 8 of 9 runs"
    assert "All of them answer better" in claim.finding


def test_claims_wait_for_the_experiments_and_for_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: set[str] = set()
    monkeypatch.setattr(Runs, "have", lambda self, *names: bool(asked.update(names)))
    for make in CLAIMS:
        make(Runs({}, Path("base-model"), 0.4))
    # And none is trained for nothing.
    assert asked == {each.name for each in all_experiments()}


def test_each_claim_says_what_shows_it_and_where_small_and_large_models_differ() -> None:
    for make in CLAIMS:
        claim = make(Runs({}, Path("base-model"), 0.4))
        assert claim.criterion.endswith(".")
        assert claim.why


def test_the_sparsity_at_a_tolerance_is_the_one_that_the_monitor_counted() -> None:
    kto = result("kto", 0.7, changed_at={"1e-08": 300, "1e-06": 290, "1e-05": 40, "0.0001": 10})
    claim = tolerance.claim(Runs({**of_all_algorithms().results, "kto": kto}, Path("base-model"), 0.4))
    (row,) = [row for row in claim.rows if row[0] == "kto"]
    assert row == ("kto", "70.0 %", "70.0 %", "71.0 %", "96.0 %", "99.0 %", "71.8 → 73.1 → 96.0")
    assert claim.verdict == "shown"


@pytest.mark.parametrize(("kl", "verdict"), [(0.78, "shown"), (0.6, "shown in part")])
def test_a_variant_that_differs_much_is_counted(kl: float, verdict: str) -> None:
    others = {"grpo_no_gradient_clipping": 0.8, "grpo_off_policy": 0.82, "grpo_off_policy_no_ratio_clipping": 0.8}
    assert variants.claim(runs(grpo=0.8, grpo_kl=kl, **others)).verdict == verdict


def test_texts_of_another_distribution_have_to_lower_the_sparsity_at_one_learning_rate() -> None:
    at_another = {"sft": 0.1, "sft_backwards": 0.1, "grpo": 0.8, "grpo_at_sft_rate": 0.1}
    at_one_rate = {"sft_at_rl_rate": 0.9, "sft_backwards_at_rl_rate": 0.6, "dpo": 0.8, **at_another}
    assert distribution.claim(runs(**at_one_rate, dpo_backwards=0.1)).verdict == "shown"
    assert distribution.claim(runs(**at_one_rate, dpo_backwards=0.79)).verdict == "shown in part"
    at_one_rate |= {"sft_backwards_at_rl_rate": 0.9}
    assert distribution.claim(runs(**at_one_rate, dpo_backwards=0.8)).verdict == "not shown"


def test_a_run_that_changed_nothing_has_nothing_in_common_with_others(tmp_path: Path) -> None:
    bools = torch.rand(64, 64, generator=torch.Generator().manual_seed(0)) < 0.2
    made = {}
    for name in {name for pair in overlap.PAIRS for name in pair[1:3]}:
        made[name] = result(name, 0.8, directory=tmp_path / name)
        file = made[name].directory / MASK_FILE
        file.parent.mkdir(parents=True)
        UpdateMask.from_bools({"weight": bools & (name != "dpo-high")}).save(file)
    claim = overlap.claim(Runs(made, Path("base-model"), 0.4))
    assert claim.verdict == "shown in part"
    assert sum("—" in row[-2] for row in claim.rows) == 1


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
    assert claim.rows[0][:4] == ("adamw", "bfloat16", "1e-5", "90.00 %")
    assert claim.verdict == "shown"
    # No less than at the middle rate.
    cells["grpo-sgd-float32-0.1"] = result("grpo-sgd-float32-0.1", 0.5)
    assert optimizers.claim(Runs(cells, Path("base-model"), 0.4)).verdict == "shown in part"


def test_what_has_no_result_is_told_and_leaves_the_rest(tmp_path: Path) -> None:
    place = Place(tmp_path, None)
    path = write_report(Made(all_experiments(), FULL, place, 0.4, {"grpo": "it broke"}, is_short=False), tmp_path)
    text = path.read_text()
    assert "- grpo: it broke" in text
    assert len(re.findall(r"\*\*Here: cannot be said: 0 of \d+ runs\.\*\*$", text, re.MULTILINE)) == len(CLAIMS)
    assert "None" not in text


def test_random_masks_are_judged_by_the_gain_of_all_weights() -> None:
    claim = random_masks.claim(runs(grpo=0.8))
    assert claim.rows[0][-2:] == ("40.0 %", "—")
    assert claim.rows[1][-2:] == ("60.0 %", "+20.0")
    assert claim.verdict == "cannot be said: 1 of 6 runs"


def test_where_training_all_weights_brings_nothing_no_random_mask_does_as_well() -> None:
    names = ["grpo", "grpo-subnetwork", "grpo-random-as-dense", "grpo-random-1-percent"]
    names += ["grpo-random-1-percent-fast", "grpo-random-1-percent-fast-other"]
    made = Runs({name: result(name, 0.9, right_answers=0.3) for name in names}, Path("base-model"), 0.4)
    claim = random_masks.claim(made)
    assert claim.verdict == "not shown"
    assert claim.finding == "Training all weights brought no gain, so that there is none to compare with."
