from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from monitor.errors import ConfigurationError, MaskMismatchError
from monitor.observe.masks.mask import MaskMetadata, UpdateMask
from monitor.observe.observer import UpdateObserver


class Weights(nn.Module):
    """Parameters of given values."""

    def __init__(self, **values: list[float] | torch.Tensor) -> None:
        super().__init__()
        for name, value in values.items():
            self.register_parameter(name, nn.Parameter(torch.as_tensor(value)))

    def set(self, name: str, values: list[float]) -> None:
        with torch.no_grad():
            getattr(self, name).copy_(torch.tensor(values))


def test_changed_newly_changed_reverted_touched_over_time() -> None:
    model = Weights(w=[1.0, 1.0, 1.0, 1.0])
    observer = UpdateObserver(model)
    seen = []
    for step, values in enumerate([[2.0, 2.0, 1.0, 1.0], [2.0, 1.0, 3.0, 1.0], [2.0, 1.0, 3.0, 1.0]], start=1):
        model.set("w", values)
        o = observer.observe(step)
        seen.append([int(c[0]) for c in (o.changed, o.newly_changed, o.reverted, o.step_changed, o.touched)])
    assert seen == [[2, 2, 0, 2, 2], [2, 1, 1, 2, 3], [2, 0, 0, 0, 3]]
    assert observer.update_mask().bools("w").tolist() == [True, False, True, False]
    assert observer.touched_mask().bools("w").tolist() == [True, True, True, False]


def test_visible_weights_are_compared_not_stored_ones() -> None:
    model = Weights(w=[1.0, 1.0, 1.0])
    observer = UpdateObserver(model)
    # One bfloat16 step at 1.0 is 2⁻⁷; half of it rounds to even, back to 1.0.
    model.set("w", [1.0 + 2**-8, 1.0 + 2**-8 + 2**-20, 1.0])
    observation = observer.observe(1)
    assert (observation.changed[0], observation.hidden[0]) == (1, 1)


def test_zero_keeps_its_value_when_its_sign_changes_and_nan_never_does() -> None:
    model = Weights(w=[0.0, float("nan"), float("inf")])
    observer = UpdateObserver(model)
    model.set("w", [-0.0, float("nan"), float("inf")])
    observation = observer.observe(1)
    assert observer.update_mask().bools("w").tolist() == [False, True, False]
    assert observation.non_finite[0] == 2


def test_a_tolerance_decides_what_is_changed_but_not_what_is_touched() -> None:
    model = Weights(w=[1.0, 1.0])
    observer = UpdateObserver(model, criterion="atol=0.1", visible_dtype="float32", tolerances=[0.01, 1e-6])
    model.set("w", [1.05, 1.5])
    observation = observer.observe(1)
    assert observation.changed[0] == 1
    assert observation.touched[0] == 2
    assert {tolerance: int(counts[0]) for tolerance, counts in observation.changed_at.items()} == {0.01: 2, 1e-6: 2}


def test_norms_are_those_of_the_visible_update() -> None:
    model = Weights(w=[1.0, 2.0, float("inf")])
    observer = UpdateObserver(model)
    model.set("w", [4.0, -2.0, float("nan")])
    observation = observer.observe(1)
    assert observation.squared_norm[0] == 25.0
    assert observation.max_abs[0] == 4.0
    assert observation.update_norm == 5.0


def test_overlap_with_a_reference_mask_and_what_chance_gives() -> None:
    model = Weights(a=torch.zeros(8), b=torch.zeros(2))
    reference = UpdateMask.from_bools({"a": torch.tensor([True] * 4 + [False] * 4), "b": torch.tensor([True, False])})
    observer = UpdateObserver(model, references={"seed 1": reference})
    model.set("a", [1.0, 1.0, 0, 0, 0, 0, 0, 1.0])
    model.set("b", [1.0, 0.0])
    overlap = observer.observe(1).overlap("seed 1")
    assert (overlap.changed, overlap.reference, overlap.intersection, overlap.weights) == (4, 5, 3, 10)
    assert overlap.o1 == 3 / 4
    assert overlap.o2 == 3 / 5
    assert overlap.jaccard == 3 / 6
    assert (overlap.expected_o1, overlap.expected_o2) == (5 / 10, 4 / 10)
    assert overlap.expected_intersection == 3 * 4 / 8 + 1 * 1 / 2
    assert overlap.lift == 3 / 2


def test_chance_meets_a_reference_mask_only_in_what_trains() -> None:
    """As with a mask of full fine-tuning, and adapters on one matrix: chance is no more than everything."""
    model = Weights(a=torch.zeros(8), b=torch.zeros(40))
    model.get_parameter("b").requires_grad_(False)
    everywhere = {"a": torch.tensor([True] * 4 + [False] * 4), "b": torch.ones(40, dtype=torch.bool)}
    observer = UpdateObserver(model, references={"full": UpdateMask.from_bools(everywhere)})
    model.set("a", [1.0, 1.0, 0, 0, 0, 0, 0, 0])
    overlap = observer.observe(1).overlap("full")
    assert (overlap.weights, overlap.reference, overlap.o1, overlap.o2) == (8, 44, 1.0, 2 / 44)
    assert overlap.expected_o1 == 4 / 8
    assert overlap.expected_o2 == pytest.approx(overlap.expected_intersection / 44)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (torch.zeros(1, dtype=torch.int32), r"words of torch\.int32 and shape \[1\]"),
        (torch.zeros(2, dtype=torch.int64), r"words of torch\.int64 and shape \[2\]"),
    ],
)
def test_a_reference_mask_with_other_words_than_its_shape_wants_is_refused(words: torch.Tensor, found: str) -> None:
    """Kernels do not look whether there is memory to read."""
    mask = UpdateMask({"weight": words}, {"weight": (8, 8)})
    with pytest.raises(MaskMismatchError, match=rf"reference mask 'broken' has {found} for weight"):
        UpdateObserver(nn.Linear(8, 8, bias=False), references={"broken": mask})


def test_a_reference_mask_of_another_model_is_refused_by_name() -> None:
    mask = UpdateMask.from_bools({"v": torch.ones(2, dtype=torch.bool)})
    with pytest.raises(MaskMismatchError, match=r"reference mask 'old' .*missing: w"):
        UpdateObserver(Weights(w=[1.0, 1.0]), references={"old": mask})


def test_a_reference_mask_of_another_base_is_warned_about() -> None:
    model = Weights(w=[1.0, 1.0])
    mask = UpdateMask.from_bools({"w": torch.ones(2, dtype=torch.bool)}, MaskMetadata(base_fingerprint="0" * 32))
    with pytest.warns(UserWarning, match="'old' was taken against another base"):
        UpdateObserver(model, references={"old": mask})
    own = UpdateObserver(model).update_mask()
    UpdateObserver(model, references={"own": own})


def test_a_weight_that_leaves_zero_has_moved_however_far_it_goes() -> None:
    model = Weights(w=[0.0, 0.0, 0.0])
    observer = UpdateObserver(model)
    # 2⁻¹¹⁹ is 1024 representable steps from zero, a multiple of 256: as a low byte it looks the same.
    model.set("w", [2.0**-119, 1.0, 0.0])
    observation = observer.observe(1)
    assert [int(c[0]) for c in (observation.changed, observation.step_changed, observation.touched)] == [2, 2, 2]


def test_what_differed_from_the_base_before_has_not_moved_at_the_first_observation() -> None:
    model = Weights(w=[1.0, 2.0, 3.0])
    observer = UpdateObserver(model, base={"w": torch.tensor([1.0, 5.0, 3.0])})
    model.set("w", [4.0, 2.0, 3.0])
    o = observer.observe(1)
    assert [int(c[0]) for c in (o.changed, o.newly_changed, o.step_changed, o.touched)] == [2, 1, 1, 2]


def test_without_step_masks_steps_are_not_measured_and_take_no_memory() -> None:
    model = Weights(w=[1.0, 1.0])
    with_steps, without = UpdateObserver(model), UpdateObserver(model, step_masks=False)
    observation = without.observe(1)
    assert observation.step_changed is observation.touched is observation.step_sparsity is None
    assert without.touched_mask() is None
    assert without.monitor_bytes < with_steps.monitor_bytes


def test_strides_are_the_steps_between_observations() -> None:
    observer = UpdateObserver(Weights(w=[1.0]), first_step=10)
    assert [observer.observe(step).stride for step in (12, 13, 20)] == [2, 1, 7]
    with pytest.raises(ValueError, match="steps must rise"):
        observer.observe(20)


def test_observing_writes_to_no_live_weight() -> None:
    model = nn.Linear(50, 50)
    before = copy.deepcopy(model.state_dict())
    versions = [parameter._version for parameter in model.parameters()]
    observer = UpdateObserver(model)
    observer.observe(1)
    assert [parameter._version for parameter in model.parameters()] == versions
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_observing_uses_no_random_numbers() -> None:
    model = nn.Linear(5, 5)
    state = torch.get_rng_state()
    observer = UpdateObserver(model)
    observer.observe(1)
    _ = observer.base_fingerprint
    assert torch.equal(torch.get_rng_state(), state)


def test_a_parameter_whose_storage_is_exchanged_is_followed() -> None:
    model = Weights(w=[1.0, 1.0])
    observer = UpdateObserver(model)
    model.w.data = torch.tensor([1.0, 5.0])
    assert observer.observe(1).changed[0] == 1


def test_transposed_and_empty_parameters_are_measured() -> None:
    model = Weights(t=torch.zeros(3, 40).t(), e=torch.zeros(0))
    observer = UpdateObserver(model)
    with torch.no_grad():
        model.t[1, 2] = 1.0
    observation = observer.observe(1)
    assert observation.changed.sum() == 1
    assert observer.update_mask().bools("t").nonzero().tolist() == [[1, 2]]
    assert observation.weights == 120


def test_tolerances_are_given_once_each() -> None:
    with pytest.raises(ConfigurationError, match="expected each one once"):
        UpdateObserver(Weights(w=[1.0]), tolerances=[1e-5, 1e-5])


def test_groups_add_their_parameters_up() -> None:
    torch.manual_seed(0)
    model = nn.Module()
    model.layers = nn.ModuleList([nn.Linear(40, 40) for _ in range(3)])
    observer = UpdateObserver(model)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + (torch.rand_like(parameter) < 0.2) * 0.1)
    observation = observer.observe(1)
    for i, group in enumerate(observation.groups):
        expected = sum(
            int((p.to(torch.bfloat16) != before[name].to(torch.bfloat16)).sum())
            for name, p in model.named_parameters()
            if name.startswith(f"layers.{group.layer}.")
        )
        assert observation.changed[i] == expected > 0
    assert np.isclose(observation.cumulative_sparsity, 1 - observation.changed.sum() / observation.weights)
