from __future__ import annotations

import torch
from paper.exercises import exercises, judged_answers, preferences
from paper.experiments import Subnetwork
from paper.optimizers import MuonBesideAdamW, make_optimizer
from paper.subnetworks import random_control, random_mask
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from monitor import UpdateMask


def test_the_two_data_sets_have_no_exercise_in_common() -> None:
    low, high = ({row["prompt"] for row in exercises(data, 3000, seed=2)} for data in ("low", "high"))
    assert len(low) > 1000 < len(high)
    assert not low & high


def test_backwards_answers_have_the_digits_in_reverse() -> None:
    rows = exercises("backwards", 50, seed=2)
    assert [{**row, "completion": row["completion"][::-1]} for row in rows] == exercises("low", 50, seed=2)
    assert any(row["completion"] != row["completion"][::-1] for row in rows)


def test_a_rejected_answer_is_wrong_or_none() -> None:
    rows = preferences("high", 200, seed=2)
    totals = [sum(map(int, row["prompt"].removesuffix("=").split("+"))) for row in rows]
    assert all(row["chosen"] == str(total) != row["rejected"] for row, total in zip(rows, totals, strict=True))
    assert {row["rejected"] == "?" for row in rows} == {True, False}


def test_half_of_the_judged_answers_are_right() -> None:
    rows = judged_answers("low", 101, seed=2)
    assert len(rows) == 101
    assert [row["label"] for row in rows] == [True, False] * 50 + [True]
    totals = [sum(map(int, str(row["prompt"]).removesuffix("=").split("+"))) for row in rows]
    assert [row["completion"] == str(total) for row, total in zip(rows, totals, strict=True)] == [
        row["label"] for row in rows
    ]


def test_the_control_has_as_many_ones_in_each_matrix_at_other_places() -> None:
    torch.manual_seed(0)
    mask = UpdateMask.from_bools({"a": torch.rand(300, 7) < 0.3, "b": torch.rand(50) < 0.9, "c": torch.zeros(3) > 0})
    control = random_control(mask, seed=0)
    assert control.counts() == mask.counts()
    assert control.shapes == mask.shapes
    # As chance has it: 0.3 of 630 ones, within five standard deviations.
    assert abs(mask.common_counts(control)["a"] - 0.3 * mask.counts()["a"]) < 60
    other = random_control(mask, seed=1)
    assert not torch.equal(other.bools("a"), control.bools("a"))


def test_a_random_mask_has_about_its_share_of_every_matrix() -> None:
    mask = random_mask({"a": (400, 500), "b": (100, 100)}, Subnetwork(random=True, share=0.01, seed=3))
    assert abs(mask.counts()["a"] - 2000) < 250
    assert abs(mask.counts()["b"] - 100) < 60


def small_model() -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1}
    return Qwen2ForCausalLM(Qwen2Config(vocab_size=11, num_hidden_layers=1, tie_word_embeddings=True, **sizes))


def give_gradients(model: nn.Module) -> None:
    torch.manual_seed(1)
    for weights in model.parameters():
        weights.grad = torch.randn_like(weights)


def test_muon_steps_the_matrices_and_adamw_the_rest() -> None:
    model, by_hand = small_model(), small_model()
    optimizer = make_optimizer("muon", model, learning_rate=1e-2)
    named = dict(by_hand.named_parameters())
    matrices = [weights for name, weights in named.items() if "_proj.weight" in name]
    others = [weights for name, weights in named.items() if "_proj.weight" not in name]
    assert len(matrices) == 7
    parts = [
        torch.optim.Muon(matrices, lr=1e-2, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=1e-2, weight_decay=0.0, fused=True),
    ]
    for _ in range(2):
        give_gradients(model)
        give_gradients(by_hand)
        optimizer.step()
        for part in parts:
            part.step()
    for name, weights in model.named_parameters():
        assert torch.equal(weights, named[name]), name


def test_a_schedule_of_the_learning_rate_reaches_both_parts() -> None:
    model = small_model()
    before = {name: weights.detach().clone() for name, weights in model.named_parameters()}
    optimizer = MuonBesideAdamW(model, learning_rate=1e-2)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0)
    give_gradients(model)
    optimizer.step()
    assert all(torch.equal(weights, before[name]) for name, weights in model.named_parameters())
