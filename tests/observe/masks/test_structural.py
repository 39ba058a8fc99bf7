"""Structural masks have exactly the weights that sorting the whole parameter gives, whatever the weights are."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from monitor.errors import ConfigurationError
from monitor.observe.bits import count_ones, unpack
from monitor.observe.masks import ranking
from monitor.observe.masks.mask import UpdateMask
from monitor.observe.masks.structural import Kind, StructuralMask
from monitor.observe.observer import UpdateObserver
from tests.observe.masks.ordered import structural_bools
from tests.observe.weights.test_adapters import KINDS, merged, train, without_adapters

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
SHARES = ("0.1", "0.001", "0.5", "0.999", "1")


def nasty(count: int, dtype: torch.dtype) -> torch.Tensor:
    """Weights with ties, both zeros, both infinities, NaN of both signs and subnormals, as far as there is room."""
    weights = (torch.randn(count, generator=torch.Generator().manual_seed(count)) * 0.02).to(dtype)
    if count > 100:
        weights[::62], weights[1::62], weights[2::14] = 0.0, -0.0, 0.005
        weights[3:12:2], weights[4:12:2] = float("nan"), -float("nan")
        weights[20], weights[22] = float("inf"), -float("inf")
        weights[30:60] = torch.arange(30).to(dtype) * torch.finfo(dtype).smallest_normal / 16
    return weights


def bits_of(text: str, name: str, weights: torch.Tensor, dtype: torch.dtype) -> np.ndarray:
    mask = StructuralMask.parse(text)
    assert mask is not None
    return unpack(words_of(mask, name, weights, dtype), weights.numel()).numpy()


def words_of(mask: StructuralMask, name: str, weights: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return mask.words_of(name, tuple(weights.shape), lambda: weights, dtype, weights.device)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("count", [0, 1, 9, 33, 5001])
def test_a_structural_mask_is_what_sorting_gives(
    count: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Several chunks, of which the last one is not full.
    monkeypatch.setattr(ranking, "RANKED_ON_CPU", 1 << 10)
    weights = nasty(count, dtype)
    for text in (f"{kind}:{share}" for kind in Kind for share in SHARES):
        expected = structural_bools(text, "a.weight", weights)
        assert np.array_equal(bits_of(text, "a.weight", weights, dtype), expected), text


def test_weights_are_ranked_as_they_are_visible() -> None:
    stored = nasty(5001, torch.float32)
    expected = structural_bools("lowest:0.1", "a", stored.bfloat16())
    assert np.array_equal(bits_of("lowest:0.1", "a", stored, torch.bfloat16), expected)
    assert not np.array_equal(bits_of("lowest:0.1", "a", stored, torch.float32), expected)


@pytest.mark.parametrize("value", [0.0, 0.02, float("nan"), float("inf")])
def test_of_weights_that_are_all_the_same_exactly_the_share_is_marked(value: float) -> None:
    """Anywhere: the first rows would be no tenth of what is alike."""
    bits = bits_of("lowest:0.1", "a", torch.full((100, 300), value), torch.bfloat16)
    assert bits.sum() == 3000
    # Binomial, within five standard deviations.
    halves = bits.reshape(2, -1).sum(axis=1)
    assert abs(int(halves[0]) - 1500) < 5 * math.sqrt(3000 / 4)


def test_what_is_marked_follows_from_name_and_share_alone() -> None:
    weights = torch.zeros(4000)
    tenth, fifth = (bits_of(f"random:{share}", "a", weights, torch.bfloat16) for share in ("0.1", "0.2"))
    other = bits_of("random:0.1", "b", weights, torch.bfloat16)
    assert not (tenth & ~fifth).any()
    # By chance, 40 of the 400.
    assert 10 < (tenth & other).sum() < 80
    # The control knows nothing of where equal magnitudes are marked.
    assert 10 < (tenth & bits_of("lowest:0.1", "a", weights, torch.bfloat16)).sum() < 80


@pytest.mark.parametrize(("text", "ones"), [("lowest:0.1", 3), ("random:0.3", 9), ("lowest:1e-3", 0), ("random:1", 30)])
def test_a_share_is_the_decimal_number_that_is_written(text: str, ones: int) -> None:
    """0.1 · 30 and 0.3 · 30 are no whole numbers in floating point."""
    mask = StructuralMask.parse(text)
    assert mask is not None
    assert mask.ones(30) == count_ones(words_of(mask, "a", torch.randn(30), torch.bfloat16)) == ones


@pytest.mark.parametrize("number", ["", "0", "-0.1", "1.0001", "10", "nan", "inf", "10%", "a tenth", "1e-999"])
def test_a_share_that_cannot_be_is_named_with_what_to_do(number: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^the structural mask 'lowest:.*' has the share .* such as .*0\.1\""):
        StructuralMask.parse(f"lowest:{number}")


@pytest.mark.parametrize("text", ["lowest", "highest:0.1", "./lowest:0.1", "/runs/lowest:0.1", "mask.safetensors", ""])
def test_other_text_is_no_structural_mask(text: str) -> None:
    assert StructuralMask.parse(text) is None


class Mixed(nn.Module):
    """A matrix, a vector, one weight, and a matrix that is frozen at first."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.matrix = nn.Parameter(nasty(50 * 60, torch.float32).view(50, 60))
        self.vector = nn.Parameter(torch.ones(37))
        self.one = nn.Parameter(torch.ones(()))
        self.frozen = nn.Parameter(torch.randn(40, 40), requires_grad=False)


def move(model: nn.Module, *names: str) -> None:
    """Let a third of the weights of each grow."""
    with torch.no_grad():
        for seed, name in enumerate(names):
            weights = model.get_parameter(name)
            weights += (torch.rand(weights.shape, generator=torch.Generator().manual_seed(seed)) < 0.3) * 0.5


REFERENCES = {"low magnitude": "lowest:0.1", "chance": "random:0.25"}


def test_overlap_with_structural_masks_is_that_of_numpy() -> None:
    model = Mixed()
    base = {name: p.detach().bfloat16() for name, p in model.named_parameters()}
    observer = UpdateObserver(model, references=REFERENCES)
    move(model, "matrix", "vector", "one")
    observation = observer.observe(1)
    for reference, text in REFERENCES.items():
        marked = {name: structural_bools(text, name, weights) for name, weights in base.items()}
        changed = {name: observer.update_mask().bools(name).numpy().reshape(-1) for name in observer.shapes}
        overlap = observation.overlap(reference)
        assert overlap.intersection == sum(int((changed[name] & marked[name]).sum()) for name in changed)
        # What is frozen belongs to the mask; chance cannot meet it.
        assert overlap.reference == sum(int(bits.sum()) for bits in marked.values())
        assert overlap.reference_in_trained == sum(int(marked[name].sum()) for name in changed)
        expected = math.fsum(changed[n].sum() * marked[n].sum() / changed[n].size for n in changed)
        assert overlap.expected_intersection == pytest.approx(expected)


def test_a_structural_mask_covers_what_starts_to_train_as_if_it_had_from_the_start() -> None:
    late, early = Mixed(), Mixed()
    early.requires_grad_(True)
    observations = []
    for model in (late, early):
        observer = UpdateObserver(model, references=REFERENCES)
        late.requires_grad_(True)
        observer.follow(model)
        move(model, "matrix", "frozen")
        observations.append(observer.observe(1))
    counted = [
        {name: (sum(counts.intersection), sum(counts.weights)) for name, counts in each.references.items()}
        for each in observations
    ]
    assert counted[0] == counted[1]
    assert counted[0]["low magnitude"][0] > 0


def test_a_structural_mask_is_the_same_when_the_base_is_read_again() -> None:
    """As after a resume: the weights that train are others, and the base comes from its checkpoint."""
    model, resumed = Mixed(), Mixed()
    first = UpdateObserver(model, references=REFERENCES)
    base = {name: p.detach().clone() for name, p in resumed.named_parameters()}
    move(model, "matrix", "vector")
    move(resumed, "matrix", "vector")
    again = UpdateObserver(resumed, base=base, references=REFERENCES, first_step=1)
    observations = first.observe(2), again.observe(2)
    for name in REFERENCES:
        assert observations[0].overlap(name) == observations[1].overlap(name)


@pytest.mark.parametrize("kind", ["lora on bfloat16", "tied embedding", "dora on float32"])
def test_with_adapters_the_mask_is_that_of_the_weights_below_them(kind: str) -> None:
    model = KINDS[kind]()
    below = without_adapters(model)
    observer = UpdateObserver(model, references=REFERENCES)
    train(model)
    observation = observer.observe(1)
    now = merged(model)
    for reference, text in REFERENCES.items():
        marked = {name: structural_bools(text, name, below[name].bfloat16()) for name in observer.shapes}
        changed = {n: (now[n].bfloat16() != below[n].bfloat16()).reshape(-1).numpy() for n in observer.shapes}
        both = sum(int((changed[name] & marked[name]).sum()) for name in changed)
        assert observation.overlap(reference).intersection == both > 0


def test_an_enrichment_is_the_lift_of_a_structural_mask() -> None:
    """|M∩R| ÷ |M| over the share, as arXiv 2606.13657 counts; exactly so where a share of each matrix is whole."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 50, bias=False), nn.Linear(50, 20, bias=False))
    observer = UpdateObserver(model, references={"low magnitude": "lowest:0.1"})
    move(model, "0.weight")
    overlap = observer.observe(1).overlap("low magnitude")
    assert overlap.lift == pytest.approx(overlap.o1 / 0.1)


def test_structural_masks_draw_none_of_the_random_numbers_of_the_training() -> None:
    model = nn.Linear(4, 4)
    state = torch.get_rng_state()
    UpdateObserver(model, references=REFERENCES)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_mask_of_another_run_stands_beside_structural_ones() -> None:
    """Each keeps its place among the kernels' columns."""
    model = Mixed()
    everything = UpdateMask.from_bools({name: torch.ones(p.shape).bool() for name, p in model.named_parameters()})
    references = {"chance": "random:0.25", "all": everything, "low magnitude": "lowest:0.1"}
    observer = UpdateObserver(model, references=references)
    assert list(observer.reference_weights) == list(references)
    move(model, "matrix")
    observation = observer.observe(1)
    assert observation.overlap("all").intersection == observation.changed.sum()
    assert observation.overlap("low magnitude").reference == sum(p.numel() // 10 for p in model.parameters())
