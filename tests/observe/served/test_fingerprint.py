"""What the fingerprint of weights is, and that it is the same wherever and however these are held."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.testing._internal.two_tensor import TwoTensor

import monitor
from monitor import fingerprint
from monitor.errors import ConfigurationError, UnsupportedModelError
from monitor.observe import chunk_sizes
from monitor.observe.observer import UpdateObserver
from monitor.observe.served.slices import Slice

NASTY = (0.0, -0.0, math.inf, -math.inf, 1e-45, -1e-40, 3.4e38, 1.0, -1.0, 0.1)


def nasty(*shape: int, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> torch.Tensor:
    weights = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    flat = weights.view(-1)
    some = torch.tensor(NASTY)[: flat.numel()]
    flat[: some.numel()] = some
    return weights.to(dtype)


def expected(bits: npt.NDArray[np.signedinteger]) -> int:
    """The same by the definition, in numpy's unsigned numbers: splitmix64 of place and bits."""
    values = bits.reshape(-1).astype(np.int64).view(np.uint64)
    mixed = np.arange(values.size, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = mixed + values * np.uint64(0xC2B2AE3D27D4EB4F)
    for shift, multiplier in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(multiplier)
    return int((mixed ^ (mixed >> np.uint64(31))).sum(dtype=np.uint64))


def of(weights: torch.Tensor, **settings: str) -> int:
    return fingerprint({"weight": weights}, **settings)["weight"]


@pytest.mark.parametrize("shape", [(), (1,), (0,), (7, 0), (3, 5), (40_001,)])
def test_it_is_what_numpy_makes_of_place_and_bits(shape: tuple[int, ...]) -> None:
    weights = nasty(*shape)
    assert of(weights) == expected(weights.view(torch.int16).numpy())
    weights = nasty(*shape, dtype=torch.float32)
    assert of(weights, visible_dtype="float32") == expected(weights.view(torch.int32).numpy())
    assert of(weights, visible_dtype="float16") == expected(weights.half().view(torch.int16).numpy())


def test_stored_weights_are_rounded_to_the_visible_dtype() -> None:
    stored = nasty(50, 9, dtype=torch.float32)
    assert of(stored) == of(stored.to(torch.bfloat16)) == of(stored.to(torch.bfloat16).double())
    eighths = nasty(50, 9).to(torch.float8_e4m3fn)
    assert of(eighths) == of(eighths.to(torch.bfloat16)) != of(stored)


def test_what_is_not_floating_point_is_taken_as_it_is() -> None:
    codes = torch.arange(-128, 128, dtype=torch.int8)
    assert of(codes) == expected(codes.numpy())
    assert of(codes > 3) == expected((codes > 3).numpy().astype(np.int8))


def test_zeros_and_nans_are_told_apart_by_their_bits() -> None:
    patterns = torch.tensor([0, -32768, 0x7FC0, 0x7FC1, 0x7F81], dtype=torch.int16)
    found = [of(pattern.view(torch.bfloat16)) for pattern in patterns]
    assert len(set(found)) == len(patterns)


@pytest.mark.parametrize("view", [lambda w: w.t(), lambda w: w[::2], lambda w: w[:, 1:4], lambda w: w[0].expand(3, 7)])
def test_strides_do_not_matter(view) -> None:  # type: ignore[no-untyped-def]
    weights = view(nasty(6, 7))
    assert not weights.is_contiguous()
    assert of(weights) == of(weights.contiguous())


def test_a_weight_that_moved_or_changed_is_found() -> None:
    weights = nasty(300, 7)
    for change in (
        lambda w: w.flip(0),
        lambda w: w[torch.tensor([1, 0, *range(2, 300)])],
        lambda w: w.view(7, 300),
        lambda w: w.roll(1),
    ):
        changed = change(weights)
        same = torch.equal(changed.reshape(-1).view(torch.int16), weights.view(-1).view(torch.int16))
        assert (of(changed) == of(weights)) == same
    one = weights.clone()
    one.view(torch.int16)[250, 3] += 1
    assert of(one) != of(weights)


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = nasty(123, 45)
    whole = of(weights)
    monkeypatch.setattr(chunk_sizes, "ELEMENTS_ON_CPU", 64)
    assert of(weights) == whole


@pytest.mark.parametrize("dim", [0, 1])
def test_the_sums_of_shards_add_up_to_that_of_the_whole(dim: int) -> None:
    weights = nasty(12, 8)
    halves = weights.chunk(2, dim)
    slices = [{"^weight$": [Slice("weight", dim=dim, rank=rank, ranks=2)]} for rank in (0, 1)]
    parts = [fingerprint({"weight": half}, slices=each) for half, each in zip(halves, slices, strict=True)]
    assert sum(part["weight"] for part in parts) % 2**64 == of(weights)
    exchanged = [fingerprint({"weight": half}, slices=each) for half, each in zip(halves[::-1], slices, strict=True)]
    assert sum(part["weight"] for part in exchanged) % 2**64 != of(weights)


def test_names_are_those_without_wrappers_and_tied_weights_have_one_number() -> None:
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    found = fingerprint(nn.ModuleDict({"module": model}).named_parameters(remove_duplicate=False))
    assert list(found) == ["0.weight", "1.weight"]
    assert found["0.weight"] == found["1.weight"] == fingerprint(model.state_dict())["1.weight"]


def test_an_observer_has_the_same_of_its_model() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3), nn.LayerNorm(3))
    model[0].requires_grad_(False)
    assert UpdateObserver(model).fingerprint() == fingerprint(model.named_parameters())
    observer = UpdateObserver(model, visible_dtype="float32")
    assert observer.fingerprint() == fingerprint(model.named_parameters(), visible_dtype="float32")


def test_of_adapters_it_is_that_of_the_weights_they_make() -> None:
    """As they are served where they are merged; the base alone is something else."""
    torch.manual_seed(0)
    adapted = get_peft_model(nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4)), LoraConfig(target_modules=["0"], r=2))
    nn.init.normal_(adapted.base_model.model[0].lora_B["default"].weight)
    observed = UpdateObserver(adapted).fingerprint()
    base = copy.deepcopy(adapted).unload()
    merged = adapted.merge_and_unload()
    assert observed == fingerprint(merged.named_parameters()) != fingerprint(base.named_parameters())


def test_a_compiled_model_has_that_of_the_plain_one() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7))
    compiled = torch.compile(model)
    assert next(iter(dict(compiled.named_parameters()))).startswith("_orig_mod.")
    assert fingerprint(compiled.named_parameters()) == fingerprint(model.named_parameters())
    assert UpdateObserver(compiled).fingerprint() == fingerprint(model.named_parameters())


def scaled(suffix: str, dtype: torch.dtype = torch.float8_e4m3fn) -> dict[str, torch.Tensor]:
    """Codes beside their scales, as vLLM and transformers hold them."""
    return {"fc.weight": torch.ones(4, 2).to(dtype), f"fc.weight{suffix}": torch.tensor(0.5)}


def with_scales(name: str) -> dict[str, torch.Tensor]:
    """Codes that carry their scales, as bitsandbytes holds them."""
    codes = torch.ones(4, 1, dtype=torch.uint8)
    setattr(codes, name, torch.ones(1))
    return {"fc.weight": codes}


@pytest.mark.parametrize(
    "quantised",
    [
        scaled("_scale"),
        scaled("_scale_inv"),
        scaled("_scale", torch.int8),
        with_scales("quant_state"),
        with_scales("SCB"),
        # As of torchao: a tensor that is made of several.
        {"fc.weight": TwoTensor(torch.ones(4, 2), torch.ones(4, 2))},
    ],
)
def test_quantised_weights_are_refused_in_words(quantised: dict[str, torch.Tensor]) -> None:
    """They differ from what trains even where all is well, which would be blamed on the sync."""
    with pytest.raises(
        UnsupportedModelError, match=r"fc\.weight is quantised .* can be told only of one that does not"
    ):
        fingerprint({"norm.weight": torch.ones(2), **quantised})


def test_weights_beside_scales_of_their_own_are_no_codes() -> None:
    assert len(fingerprint({"fc.weight": torch.ones(4, 2), "fc.weight_scale": torch.ones(4)})) == 2


def pairs() -> Iterator[object]:
    yield "weight"


@pytest.mark.parametrize("given", [None, torch.ones(3), pairs(), [("weight", 3)], nn.Linear(2, 2), {"a": [1.0]}])
def test_what_are_no_tensors_is_named(given: object) -> None:
    with pytest.raises(ConfigurationError, match="expected pairs of name and tensor"):
        fingerprint(given)  # type: ignore[arg-type]


def test_what_has_no_weights_here_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="a is on the meta device"):
        fingerprint({"a": torch.empty(3, device="meta")})
    with pytest.raises(UnsupportedModelError, match="a is of complex128, which has no fingerprint"):
        fingerprint({"a": torch.ones(3, dtype=torch.complex128)})
    with pytest.raises(ConfigurationError, match="visible_dtype is 'int8'"):
        monitor.fingerprint({}, visible_dtype="int8")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_makes_the_same_of_them() -> None:
    for dtype in (torch.bfloat16, torch.float32, torch.float16):
        weights = nasty(5000, 1001, dtype=dtype)
        assert of(weights.cuda()) == of(weights)
        assert of(weights.cuda().t()) == of(weights.t())
