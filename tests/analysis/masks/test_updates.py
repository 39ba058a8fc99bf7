from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from monitor.analysis.masks import updates as updating
from monitor.analysis.masks.fitting import FittingMasks
from monitor.analysis.masks.updates import UpdateSums, sum_updates
from monitor.errors import MaskMismatchError
from monitor.observe.masks.file import MaskMetadata
from tests.analysis.masks.mask_files import MEASURED, SHAPES, save
from tests.gpu.target import DEVICE, needs_gpu

CPU = torch.device("cpu")
NASTY = [0.0, -0.0, math.inf, -math.inf, math.nan, 1e-40, 3e38, -3e38, 1.0, 1.0078125]


@dataclass
class Model:
    """Weights in memory, read as a checkpoint is."""

    source: str
    parameters: dict[str, torch.Tensor]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in self.parameters.items()}

    def read(self, name: str) -> torch.Tensor:
        return self.parameters[name]


def base_model(*, nasty: bool) -> Model:
    generator = torch.Generator().manual_seed(0)
    parameters = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    if nasty:
        every_one = torch.tensor(NASTY).repeat(len(NASTY))
        parameters["model.layers.0.self_attn.q_proj.weight"].view(-1)[: len(NASTY) ** 2] = every_one
    return Model("base", parameters)


def finetuned(base: Model, seed: int, *, nasty: bool) -> Model:
    generator = torch.Generator().manual_seed(seed)
    parameters = {}
    for name, tensor in base.parameters.items():
        update = 0.01 * torch.randn(tensor.shape, generator=generator)
        parameters[name] = tensor + update * (torch.rand(tensor.shape, generator=generator) < 0.5)
    if nasty:
        every_pair = torch.tensor(NASTY).repeat_interleave(len(NASTY))
        parameters["model.layers.0.self_attn.q_proj.weight"].view(-1)[: len(NASTY) ** 2] = every_pair
    return Model(f"finetuned {seed}", parameters)


def visible(tensor: torch.Tensor) -> np.ndarray:
    return tensor.to(torch.bfloat16).double().numpy().ravel()


def mask_of(base: Model, model: Model) -> dict[str, np.ndarray]:
    """The mask by bits in bfloat16, as numpy compares."""
    return {
        name: (visible(tensor) != visible(model.parameters[name])).reshape(tuple(tensor.shape))
        for name, tensor in base.parameters.items()
    }


def sums_of(
    directory: Path, base: Model, models: Sequence[Model], said: MaskMetadata = MEASURED, device: torch.device = CPU
) -> UpdateSums:
    paths = [save(directory / f"{i}.safetensors", mask_of(base, each), said) for i, each in enumerate(models)]
    with FittingMasks.open(paths) as fitting:
        return sum_updates(fitting, base, models, device, lambda weights: None)


@pytest.mark.parametrize("device", ["cpu", pytest.param(DEVICE, marks=[pytest.mark.gpu, needs_gpu])])
@pytest.mark.parametrize("nasty", [False, True])
def test_signs_and_cosines_are_those_of_numpy(
    nasty: bool, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(updating, "_CHUNK", 64)
    base = base_model(nasty=nasty)
    models = [finetuned(base, seed, nasty=nasty) for seed in (1, 2, 3)]
    sums = sums_of(tmp_path, base, models, device=torch.device(device))
    names = list(SHAPES)
    for chosen in (names, names[1:2], names[3:5]):
        start = np.concatenate([visible(base.parameters[name]) for name in chosen])
        ends = [np.concatenate([visible(model.parameters[name]) for name in chosen]) for model in models]
        with np.errstate(invalid="ignore"):
            deltas = [np.where(end == start, 0.0, end - start) for end in ends]
        finite = np.isfinite(deltas).all(axis=0)
        for a, b in ((0, 1), (2, 0)):
            one, other = deltas[a][finite], deltas[b][finite]
            both = (one != 0) & (other != 0)
            found = sums.agreement(a, b, [names.index(name) for name in chosen])
            assert found.not_finite == (~finite).sum()
            assert found.moved_in_both == both.sum()
            assert found.same_sign == (np.sign(one) == np.sign(other))[both].sum()
            assert found.cosine == pytest.approx(np.dot(one, other) / np.sqrt((one**2).sum() * (other**2).sum()))
            one, other = one[both], other[both]
            assert found.cosine_in_both == pytest.approx(
                np.dot(one, other) / np.sqrt((one**2).sum() * (other**2).sum())
            )


def test_updates_of_nothing_have_no_cosine(tmp_path: Path) -> None:
    base = base_model(nasty=False)
    found = sums_of(tmp_path, base, [base, finetuned(base, 1, nasty=False)]).agreement(0, 1, range(len(SHAPES)))
    assert (found.moved_in_both, found.not_finite) == (0, 0)
    assert all(map(math.isnan, (found.cosine, found.cosine_in_both, found.sign_agreement)))


def test_a_mask_of_other_weights_is_refused(tmp_path: Path) -> None:
    base = base_model(nasty=False)
    models = [finetuned(base, seed, nasty=False) for seed in (1, 2)]
    paths = [save(tmp_path / f"{i}.safetensors", mask_of(base, each)) for i, each in enumerate(models)]
    with FittingMasks.open(paths) as fitting, pytest.raises(MaskMismatchError) as refused:
        sum_updates(fitting, base, models[::-1], CPU, lambda weights: None)
    assert "0.safetensors' is not the mask of" in str(refused.value)
    assert "weights of model.embed_tokens.weight" in str(refused.value)


def test_a_mask_that_does_not_say_how_it_was_measured_is_taken_as_it_is(tmp_path: Path) -> None:
    base = base_model(nasty=False)
    models = [finetuned(base, seed, nasty=False) for seed in (1, 2)]
    stated, unstated = (sums_of(tmp_path, base, models, said) for said in (MEASURED, MaskMetadata()))
    assert stated.agreement(0, 1, range(7)) == unstated.agreement(0, 1, range(7))


def test_the_masks_criterion_is_the_one_that_weights_are_checked_by(tmp_path: Path) -> None:
    base = base_model(nasty=False)
    models = [finetuned(base, seed, nasty=False) for seed in (1, 2)]
    # By bits, these are masks of more.
    with pytest.raises(MaskMismatchError, match="is not the mask of the weights"):
        sums_of(tmp_path, base, models, replace(MEASURED, criterion="atol=0.01"))


def test_weights_that_lack_a_parameter_are_refused(tmp_path: Path) -> None:
    base = base_model(nasty=False)
    models = [finetuned(base, seed, nasty=False) for seed in (1, 2)]
    fewer = Model("fewer", {name: tensor for name, tensor in models[0].parameters.items() if name != "scale"})
    other = Model("other", models[1].parameters | {"scale": torch.zeros(3)})
    paths = [save(tmp_path / f"{i}.safetensors", mask_of(base, each)) for i, each in enumerate(models)]
    with FittingMasks.open(paths) as fitting:
        with pytest.raises(MaskMismatchError, match=r"cover scale, of shape \[\], which is not in 'fewer'"):
            sum_updates(fitting, base, [fewer, models[1]], CPU, lambda weights: None)
        with pytest.raises(MaskMismatchError, match=r"which is of shape \[3\] in 'other'"):
            sum_updates(fitting, base, [models[0], other], CPU, lambda weights: None)
