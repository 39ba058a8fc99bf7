from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from monitor import DenseThresholds, Observation, Verdict
from monitor.errors import ConfigurationError
from monitor.observe.weights.groups import Group
from monitor.verdict import Judge, Kind, percent

NO_WARMUP = DenseThresholds(warmup_steps=0)
GROUPS = (Group(0, "mlp.up_proj", 6_000), Group(None, "embed_tokens", 4_000))


def observed(
    step: int,
    changed: int = 0,
    moved: int | None = 10,
    *,
    stride: int = 1,
    hidden: int = 0,
    non_finite: tuple[int, int] = (0, 0),
    groups: tuple[Group, ...] = GROUPS,
    newly_changed: int = 0,
    reverted: int = 0,
    unmeasured: tuple[int, int] | None = None,
) -> Observation:
    """An observation, of 10,000 weights unless `groups` says otherwise."""

    def split(count: int) -> Any:
        return np.array([count // 2, count - count // 2])

    return Observation(
        step=step,
        stride=stride,
        observed_at=0.0,
        groups=groups,
        changed=split(changed),
        newly_changed=split(newly_changed),
        reverted=split(reverted),
        step_changed=None if moved is None else split(moved),
        touched=None if moved is None else split(changed),
        hidden=split(hidden),
        non_finite=np.array(non_finite),
        squared_norm=np.zeros(2),
        max_abs=np.zeros(2),
        unmeasured=None if unmeasured is None else np.array(unmeasured),
    )


def verdicts(
    observations: Iterable[Observation],
    thresholds: DenseThresholds = NO_WARMUP,
    logged: dict[str, object] | None = None,
) -> list[Verdict | None]:
    judge = Judge(thresholds, "bits in bfloat16")
    return [judge.judge(observation, logged) for observation in observations]


def kinds(observations: Iterable[Observation], thresholds: DenseThresholds = NO_WARMUP) -> list[Kind | None]:
    return [verdict and verdict.kind for verdict in verdicts(observations, thresholds)]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"cumulative": 35}, "cumulative of dense_thresholds is 35; expected a sparsity from 0 to 1, such as 0.35"),
        ({"cumulative": -0.1}, "cumulative of dense_thresholds is -0.1"),
        ({"cumulative": math.nan}, "cumulative of dense_thresholds is nan"),
        ({"step": "high"}, "step of dense_thresholds is 'high'"),
        ({"step": True}, "step of dense_thresholds is True"),
        ({"warmup_steps": -1}, "warmup_steps of dense_thresholds is -1; expected a whole number, 0 or greater"),
        ({"warmup_steps": 2.5}, "warmup_steps of dense_thresholds is 2.5"),
        ({"observations": 1}, "observations of dense_thresholds is 1; expected a whole number, 2 or greater"),
    ],
)
def test_a_threshold_that_cannot_work_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        DenseThresholds(**values)


def test_a_published_rl_run_is_sparse_by_default_and_published_fine_tuning_is_dense() -> None:
    # Shares of unchanged weights: arXiv 2511.08567, table 1 (densest RL; sparsest and densest SFT).
    after = [3_000, 3_010, 3_020]
    assert kinds((observed(step, 10_000 - 3_630) for step in after), DenseThresholds())[-1] is Kind.SPARSE
    for unchanged in (1_880, 60):
        assert kinds((observed(step, 10_000 - unchanged) for step in after), DenseThresholds())[-1] is Kind.DENSE


def test_too_few_observations_give_no_verdict() -> None:
    assert kinds(observed(step, 10) for step in (1, 2, 3)) == [None, None, Kind.SPARSE]


def test_the_warm_up_is_not_judged() -> None:
    dense = [observed(step, 9_000, 9_000) for step in (1, 2, 3, 4, 5)]
    assert kinds(dense, DenseThresholds(warmup_steps=3)) == [None, None, None, Kind.DENSE, Kind.DENSE]


def test_low_cumulative_sparsity_is_dense_at_once() -> None:
    (verdict,) = verdicts([observed(1, 6_501, 10)])
    assert verdict is not None
    assert str(verdict) == (
        "dense (looks like SFT) at step 1: 35.0 % of 10,000 trained weights equal the base (cumulative sparsity, bits "
        "in bfloat16), 99.90 % equal the step before (step sparsity); cumulative sparsity is below its threshold of "
        "35.0 %"
    )
    assert verdicts([observed(1, 6_500, 10)]) == [None]


def test_one_big_step_is_not_dense_but_several_in_a_row_are() -> None:
    big, small = 4_950, 100
    moved = [big, small, big, big, big]
    assert kinds(observed(step, 5_000, count) for step, count in enumerate(moved, 1))[2:] == [
        Kind.SPARSE,
        Kind.SPARSE,
        Kind.DENSE,
    ]


def test_a_threshold_of_zero_is_switched_off() -> None:
    thresholds = DenseThresholds(cumulative=0, step=0, warmup_steps=0)
    assert kinds((observed(step, 10_000, 10_000) for step in (1, 2, 3)), thresholds)[-1] is Kind.SPARSE


def test_without_step_masks_step_sparsity_is_neither_judged_nor_named() -> None:
    verdict = verdicts(observed(step, 5_000, None, newly_changed=1) for step in (1, 2, 3))[-1]
    assert verdict is not None
    assert verdict.kind is Kind.SPARSE
    assert "step sparsity" not in verdict.reason


@pytest.mark.parametrize(
    ("moves", "kind"),
    [({}, Kind.INERT), ({"newly_changed": 1}, Kind.VERY_SPARSE), ({"reverted": 1}, Kind.VERY_SPARSE)],
)
def test_without_step_masks_inert_means_that_the_mask_stays(moves: dict[str, int], kind: Kind) -> None:
    assert kinds(observed(step, 5, None, **moves) for step in (1, 2, 3))[-1] is kind


def inert_reason(logged: dict[str, object] | None, hidden: int = 0) -> str:
    verdict = verdicts((observed(step, 0, 0, stride=5, hidden=hidden) for step in (5, 10, 15)), logged=logged)[-1]
    assert verdict is not None
    assert verdict.kind is Kind.INERT
    assert verdict.reason.startswith(
        "not one of 10,000 trained visible weights moved at any observation of the last 15 steps (bits in bfloat16)"
    )
    return verdict.reason


def test_inert_names_the_gradient_norm_and_the_learning_rate() -> None:
    reason = inert_reason({"grad_norm": 0.8765, "learning_rate": 1e-9})
    assert "although the gradient norm is 0.876: the learning rate, 1e-09, is too small" in reason
    assert "float32 master weights" in reason


@pytest.mark.parametrize(
    ("logged", "words"),
    [
        (None, "the gradient norm is not known yet"),
        ({"grad_norm": 0.0}, "the gradient norm is 0: there is nothing to learn from"),
        ({"grad_norm": math.nan}, "the gradient norm is nan: the optimizer may be skipping its steps"),
        ({"grad_norm": 0.5}, "the learning rate is too small"),
    ],
)
def test_inert_blames_the_learning_rate_only_where_there_is_a_gradient(
    logged: dict[str, object] | None, words: str
) -> None:
    assert words in inert_reason(logged)


def test_inert_says_when_master_weights_move_below_what_shows() -> None:
    assert "1,234 stored weights differ from the base, by less than the visible dtype shows" in inert_reason(
        {"grad_norm": 1.0}, 1_234
    )


MILLIONS = (Group(0, "mlp.up_proj", 6_000_000), Group(None, "embed_tokens", 4_000_000))


@pytest.mark.parametrize(
    ("moved", "changed", "hidden", "kind"),
    [
        (1, 1, 0, Kind.VERY_SPARSE),
        (50, 2_000, 0, Kind.VERY_SPARSE),  # RL with SGD at full reward, arXiv 2602.07729
        (50, 2_000, 9_998_000, Kind.VERY_SPARSE),  # the same with float32 master weights
        (99, 9_999, 0, Kind.VERY_SPARSE),
        (99, 10_000, 0, Kind.SPARSE),  # the end of a learning-rate schedule
        (10_000, 9_999, 0, Kind.SPARSE),  # what moves comes back
        (20_000, 60_000, 9_900_000, Kind.SPARSE),  # GRPO with float32 master weights
        (0, 10_000, 0, Kind.INERT),  # the gradient has gone
        (0, 0, 9_000_000, Kind.INERT),
        (99, 150, 9_000_000, Kind.INERT),  # what moves visibly lies next to zero
        (150, 99, 9_000_000, Kind.INERT),
    ],
)
def test_few_moves_are_inert_only_where_they_hide(moved: int, changed: int, hidden: int, kind: Kind) -> None:
    history = [observed(step, changed, moved, hidden=hidden, groups=MILLIONS) for step in (101, 102, 103)]
    verdict = verdicts(history)[-1]
    assert verdict is not None
    assert verdict.kind is kind
    if kind is Kind.INERT and moved:
        assert verdict.reason.startswith(f"at most {moved} of 10,000,000 trained visible weights moved at any")


def test_very_sparse_blames_no_learning_rate_unless_nothing_is_learned() -> None:
    def reason(hidden: int) -> str:
        history = [observed(step, 2_000, 50, hidden=hidden, groups=MILLIONS) for step in (101, 102, 103)]
        verdict = verdicts(history, logged={"grad_norm": 1.0, "learning_rate": 1e-6})[-1]
        assert verdict is not None
        return verdict.reason

    assert "with SGD, RL learns with 0.02 % (arXiv 2602.07729). If nothing is learned" in reason(hidden=0)
    assert reason(hidden=9_000_000).endswith("with SGD, RL learns with 0.02 % (arXiv 2602.07729)")


# 1,000 weights of 10,000 train.
MOSTLY_FROZEN = (Group(0, "mlp.up_proj", 6_000, 5_000), Group(None, "embed_tokens", 4_000, 4_000))


@pytest.mark.parametrize(
    ("changed", "moved", "kind"),
    [(1_000, 1_000, Kind.DENSE), (651, 10, Kind.DENSE), (300, 300, Kind.DENSE), (300, 10, Kind.SPARSE)],
)
def test_frozen_weights_make_nothing_sparse(changed: int, moved: int, kind: Kind) -> None:
    assert kinds(observed(step, changed, moved, groups=MOSTLY_FROZEN) for step in (101, 102, 103))[-1] is kind


def test_frozen_weights_do_not_hide_that_updates_get_denser() -> None:
    pace = (observed(step, 400 + 5 * (step - 100), 6, groups=MOSTLY_FROZEN) for step in (98, 99, 100))
    assert kinds(pace)[-1] is Kind.DENSIFYING


def test_a_layer_that_starts_to_train_changes_the_denominator_and_not_what_was_seen() -> None:
    thawed = (Group(0, "mlp.up_proj", 6_000), Group(None, "embed_tokens", 4_000, 4_000))
    history = [observed(step, 600, 10, groups=MOSTLY_FROZEN) for step in (1, 2)]
    history.append(observed(3, 600, 10, groups=thawed))
    assert [each.cumulative_sparsity for each in history] == [0.4, 0.4, 0.9]
    assert kinds(history)[-1] is Kind.SPARSE


def test_what_the_ratios_are_of_is_said_where_not_all_weights_train() -> None:
    judge = Judge(NO_WARMUP, "bits in bfloat16", trained="the matrices that adapters change")
    verdict = judge.judge(observed(1, 900, 10, groups=MOSTLY_FROZEN))
    assert verdict is not None
    assert verdict.reason.startswith(
        "10.0 % of 1,000 trained weights equal the base (cumulative sparsity, bits in bfloat16), 99.0 % equal the step "
        "before (step sparsity); 1,000 of 10,000 weights train (10.0 %: the matrices that adapters change), and 91.0 % "
        "of all equal the base (whole-model cumulative sparsity); cumulative sparsity is below"
    )


def with_lost(step: int, changed: int, moved: int | None = 10, *, lost: int = 9_000) -> Observation:
    """An observation of 10,000 trained weights, so many of which are lost."""
    groups = (Group(0, "mlp.up_proj", 9_000, lost), Group(None, "embed_tokens", 1_000))
    return observed(step, changed, moved, groups=groups, unmeasured=(lost, 0))


@pytest.mark.parametrize("moved", [10, 900, None])
@pytest.mark.parametrize(("before", "after"), [(2_250, 900), (2_250, 0), (9_000, 300), (9_000, 0)])
def test_weights_that_are_lost_flip_no_verdict(before: int, after: int, moved: int | None) -> None:
    history = [observed(step, before, 10) for step in (101, 102, 103)]
    history += [with_lost(step, after, moved) for step in range(104, 110)]
    said = kinds(history)
    assert said[2] is (Kind.DENSE if before == 9_000 else Kind.SPARSE)
    assert said[3:] == [None] * 6


def test_what_a_few_lost_weights_cannot_change_is_still_said() -> None:
    for changed, moved, kind in ((7_000, 10, Kind.DENSE), (2_000, 4_000, Kind.DENSE), (2_000, 10, Kind.SPARSE)):
        history = [with_lost(step, changed, moved, lost=100) for step in (101, 102, 103)]
        assert kinds(history)[-1] is kind
    # With the lost ones, this may be sparse or dense.
    assert kinds(with_lost(step, 6_450, lost=100) for step in (101, 102, 103)) == [None] * 3


@pytest.mark.parametrize("moved", [0, 5])
def test_inert_and_very_sparse_are_not_said_of_what_is_left(moved: int) -> None:
    assert kinds(with_lost(step, moved, moved, lost=100) for step in (101, 102, 103))[-1] is None


def test_weights_lost_and_found_are_not_compared_with_what_was_left() -> None:
    """Otherwise a loss of weights that had not changed reads as a fall of cumulative sparsity."""
    history = [with_lost(step, 0) for step in (98, 99)] + [observed(step, 4_500) for step in (100, 101, 102)]
    assert kinds(history) == [None, None, None, None, Kind.SPARSE]
    history = [observed(step, 4_000) for step in (98, 99)] + [with_lost(step, 4_000, lost=900) for step in (100, 101)]
    assert kinds(history) == [None] * 4


def test_lost_weights_are_named_and_count_neither_as_frozen_nor_as_equal_to_the_base() -> None:
    verdict = verdicts([with_lost(1, 7_920, lost=1_000)])[0]
    assert verdict is not None
    assert verdict.reason.startswith(
        "12.0 % of 9,000 trained weights that are still measured equal the base (cumulative sparsity, bits in "
        "bfloat16), 99.89 % equal the step before (step sparsity); 1,000 weights are not measured any more: whatever "
        "became of them, the verdict is the same; cumulative sparsity is below"
    )
    groups = (Group(0, "mlp.up_proj", 6_000, 6_000), Group(None, "embed_tokens", 4_000, 100))
    verdict = verdicts([observed(1, 3_900, groups=groups, unmeasured=(0, 100))])[0]
    assert verdict is not None
    assert "; 4,000 of 10,000 weights train (40.0 %); 100 weights are not measured any more" in verdict.reason
    assert "whole-model" not in verdict.reason


def test_weights_that_are_lost_hide_no_others_that_are_not_finite() -> None:
    groups = (Group(0, "mlp.up_proj", 6_000, 6_000), Group(None, "embed_tokens", 4_000))
    assert kinds([observed(1, groups=groups, non_finite=(0, 1), unmeasured=(6_000, 0))]) == [Kind.NON_FINITE]


@pytest.mark.parametrize(("changed", "kind"), [(600, Kind.SPARSE), (900, Kind.DENSE)])
def test_a_layer_that_starts_to_train_makes_nothing_dense(changed: int, kind: Kind) -> None:
    thawed = (Group(0, "mlp.up_proj", 6_000), Group(None, "embed_tokens", 4_000, 4_000))
    history = [observed(step, changed, groups=MOSTLY_FROZEN) for step in (1, 2, 3)]
    history += [observed(step, changed, groups=thawed) for step in (4, 5, 6)]
    assert kinds(history)[2:] == [kind] + [Kind.SPARSE] * 3


def test_where_nothing_trains_there_is_no_ratio_and_no_verdict() -> None:
    frozen = (Group(0, "mlp.up_proj", 6_000, 6_000), Group(None, "embed_tokens", 4_000, 4_000))
    history = [observed(step, 0, 0, groups=frozen) for step in (1, 2, 3)]
    assert math.isnan(history[-1].cumulative_sparsity)
    assert math.isnan(history[-1].step_sparsity or 0.0)
    assert history[-1].whole_model_cumulative_sparsity == 1.0
    assert kinds(history) == [None, None, None]


def test_what_is_published_of_such_trainings_is_named_with_the_numbers() -> None:
    judge = Judge(NO_WARMUP, "bits in bfloat16", published="published distillation keeps 51.6 %")
    verdict = [judge.judge(observed(step, 5_000, 10)) for step in (1, 2, 3)][-1]
    assert verdict is not None
    assert verdict.reason.endswith("; published distillation keeps 51.6 %")


def test_one_observation_that_moved_is_enough_not_to_be_inert() -> None:
    assert kinds(observed(step, 0, moved) for step, moved in ((1, 0), (2, 1), (3, 0), (4, 0), (5, 0)))[2:] == [
        Kind.VERY_SPARSE,
        Kind.VERY_SPARSE,
        Kind.INERT,
    ]


def test_a_pace_that_crosses_the_threshold_before_the_run_is_twice_as_old_is_densifying() -> None:
    # 40 % changed at step 100, and another 0.5 % with each step: 65 % at step 150.
    verdict = verdicts(observed(step, 4_000 + 50 * (step - 100), 60) for step in (98, 99, 100))[-1]
    assert verdict is not None
    assert verdict.kind is Kind.DENSIFYING
    assert "fell by 1.0 % of the weights in the last 2 steps" in verdict.reason
    assert verdict.reason.endswith("at that pace passes the threshold of 35.0 % at about step 150")


def test_a_pace_that_would_take_longer_than_the_run_is_old_is_sparse() -> None:
    assert kinds(observed(step, 4_000 + 20 * (step - 100), 60) for step in (98, 99, 100))[-1] is Kind.SPARSE


def test_updates_that_come_back_are_not_densifying() -> None:
    assert kinds(observed(step, 6_000 - step, 60) for step in (1, 2, 3))[-1] is Kind.SPARSE


def test_non_finite_goes_before_everything_and_needs_no_warm_up() -> None:
    (verdict,) = verdicts([observed(1, 10_000, 10_000, non_finite=(5, 2_000))], DenseThresholds())
    assert verdict is not None
    assert verdict.kind is Kind.NON_FINITE
    assert verdict.reason.startswith(
        "2,005 of 10,000 visible weights are NaN or infinite, most of them in embed_tokens."
    )
    (verdict,) = verdicts([observed(1, non_finite=(5, 2))])
    assert verdict is not None
    assert "mlp.up_proj of layer 0." in verdict.reason
    stacks = tuple(Group(3, "mlp.up_proj", 5_000, stack=stack) for stack in ("encoder", "decoder"))
    (verdict,) = verdicts([observed(1, groups=stacks, non_finite=(1, 2))])
    assert verdict is not None
    assert "mlp.up_proj of layer decoder 3." in verdict.reason


def test_what_the_trainer_logged_changes_no_kind() -> None:
    histories = [
        [observed(step, changed, moved) for step in (7, 8, 9)] for changed in (0, 9_000) for moved in (0, 9_000)
    ]
    for history in histories:
        seen = {
            tuple(verdict and verdict.kind for verdict in verdicts(history, logged=logged))
            for logged in (None, {"grad_norm": 0.0}, {"grad_norm": math.inf, "learning_rate": 1.0})
        }
        assert len(seen) == 1


@pytest.mark.parametrize("share", [1 - 1e-9, 1e-9, 0.5, 0.999])
def test_a_share_reads_as_all_or_nothing_only_where_it_is(share: float) -> None:
    assert percent(share) not in ("100 %", "0 %", "100.0 %", "0.0 %")
    assert float(percent(share).removesuffix(" %")) / 100 == pytest.approx(share, rel=0.05)


def test_a_verdict_follows_the_last_observations_alone() -> None:
    # A process that resumes comes to the same verdict as one that has seen everything.
    history = [observed(step, 100 * step, 50) for step in range(1, 41)]
    assert kinds(history)[-1] == kinds(history[-3:])[-1]
