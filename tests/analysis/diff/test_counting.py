"""The counts of a difference against numpy in float64, on random and on nasty weights, however they lie on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from monitor.analysis.diff import counting
from monitor.analysis.diff.run import difference
from monitor.analysis.pairs import Pairs
from monitor.errors import CheckpointError
from monitor.observe.base.fingerprint import fingerprint_of, weight_sums
from monitor.observe.masks.mask import UpdateMask
from monitor.observe.ranks import Alone
from tests.analysis.diff.compared import CPU, compared, on_disk, rules
from tests.gpu.target import DEVICE, needs_gpu

_NASTY = [
    float("nan"),
    0.0,
    -0.0,
    float("inf"),
    -float("inf"),
    1e-40,
    -1e-40,
    1.0,
    1.0 + 2**-7,
    1.0 + 2**-9,
    3e38,
    1e-5,
]
_TOLERANCES = (0.0, 1e-8, 1e-5, 1e-4)

Array = npt.NDArray[np.float64]


def nasty_pair(base_dtype: torch.dtype, dtype: torch.dtype) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    every = torch.tensor(_NASTY)
    random = torch.randn(3, 1001, generator=generator) * 0.02
    moved = random * torch.where(torch.rand(random.shape, generator=generator) < 0.3, 1.004, 1.0)
    base = {
        "every pair": every.repeat_interleave(len(every)),
        "random": random,
        "empty": torch.empty(0, 4),
        "one": torch.tensor([2.0]),
        "strided": random.T[::3],
    }
    finetuned = {
        "every pair": every.repeat(len(every)),
        "random": moved,
        "empty": torch.empty(0, 4),
        "one": torch.tensor([-2.0]),
        "strided": moved.T[::3],
    }
    return {n: t.to(base_dtype) for n, t in base.items()}, {n: t.to(dtype) for n, t in finetuned.items()}


def seen(tensor: torch.Tensor, dtype: torch.dtype) -> Array:
    """Visible weights, by rounding that is not the package's: float64 → dtype through numpy, except for bfloat16."""
    stored = tensor.double().numpy().reshape(-1)
    if dtype == torch.bfloat16:
        with np.errstate(over="ignore", invalid="ignore"):
            bits = stored.astype(np.float32).view(np.uint32).astype(np.uint64)
        rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16).astype(np.uint32).view(np.float32)
        return np.where(np.isnan(stored), np.nan, rounded.astype(np.float64))
    with np.errstate(over="ignore"):
        return stored.astype(np.float16 if dtype == torch.float16 else np.float32).astype(np.float64)


@pytest.mark.parametrize("span", [64, 1 << 20])
@pytest.mark.parametrize(
    ("base_dtype", "dtype", "visible"),
    [
        (torch.bfloat16, torch.bfloat16, torch.bfloat16),
        (torch.float32, torch.bfloat16, torch.bfloat16),
        (torch.bfloat16, torch.float32, torch.bfloat16),
        (torch.float32, torch.float32, torch.bfloat16),
        (torch.float32, torch.float32, torch.float32),
        (torch.float16, torch.float32, torch.float16),
        (torch.float64, torch.float32, torch.float32),
    ],
)
def test_counts_are_those_of_numpy(
    base_dtype: torch.dtype,
    dtype: torch.dtype,
    visible: torch.dtype,
    span: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(counting, "WEIGHTS_ON_CPU", span)
    base, finetuned = nasty_pair(base_dtype, dtype)
    how = rules(dtype=visible, tolerances=_TOLERANCES)
    torch_file = tmp_path / "pytorch_model.bin"
    torch.save(base, torch_file)
    tuned = on_disk(tmp_path / "tuned", finetuned)
    found = compared(torch_file, tuned, how, mask=tmp_path / "mask.safetensors")
    mask = UpdateMask.load(tmp_path / "mask.safetensors")
    whole = {name: weight_sums(tensor.contiguous().to(visible), torch.arange).tolist() for name, tensor in base.items()}
    expected = fingerprint_of((name, tuple(base[name].shape), sums) for name, sums in whole.items())
    assert mask.metadata.base_fingerprint == found.fingerprint == expected
    for name, changes in found.parameters.items():
        before, after = seen(base[name], visible), seen(finetuned[name], visible)
        differs = ~(before == after)
        with np.errstate(invalid="ignore", over="ignore"):
            size = np.where(differs, np.abs(after - before).astype(np.float32), 0.0)
        stored_before = base[name].to(dtype).double().numpy().reshape(-1)
        hidden = (finetuned[name].double().numpy().reshape(-1) != stored_before) & ~differs
        assert changes.weights == before.size
        assert changes.changed == differs.sum(), name
        assert changes.hidden == hidden.sum(), name
        assert changes.non_finite == (~np.isfinite(after)).sum(), name
        for tolerance in _TOLERANCES:
            assert changes.changed_at[tolerance] == (~(size <= np.float32(tolerance))).sum(), (name, tolerance)
        finite = np.where(np.isfinite(size), size, 0.0)
        assert changes.squared_norm == pytest.approx(float((finite.astype(np.float64) ** 2).sum()), rel=1e-12)
        assert changes.max_abs == (finite.max() if finite.size else 0.0)
        assert mask.bools(name).reshape(-1).tolist() == differs.tolist(), name


def test_parameters_come_one_by_one_into_memory_and_what_lies_there_plainly_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is bounded by the span: no tensor of the checkpoint is ever whole in memory."""
    monkeypatch.setattr(counting, "WEIGHTS_ON_CPU", 1024)
    sizes: list[int] = []
    empty = torch.empty

    def watched(*shape: Any, **options: Any) -> torch.Tensor:
        made = empty(*shape, **options)
        sizes.append(made.nbytes)
        return made

    base, tuned = (on_disk(tmp_path / n, {"w": torch.full((200, 500), v)}) for n, v in (("a", 1.0), ("b", 2.0)))
    monkeypatch.setattr(torch, "empty", watched)
    assert compared(base, tuned).total.changed == 100_000
    assert max(sizes) == 4 * 1024


def test_reading_ahead_never_overwrites_what_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each span has weights of its own: were a buffer filled again too early, counts would be of other spans."""
    monkeypatch.setattr(counting, "WEIGHTS_ON_CPU", 32)
    rows = torch.arange(200.0).repeat_interleave(32)
    base = on_disk(tmp_path / "a", {"w": rows, "v": rows.clone()})
    tuned = on_disk(tmp_path / "b", {"w": rows + (rows % 7 == 0), "v": rows.clone()})
    how = rules(dtype=torch.float32)
    found = compared(base, tuned, how)
    assert found.parameters["w"].changed == 32 * len(range(0, 200, 7))
    assert found.parameters["v"].changed == 0


def test_an_error_while_reading_ends_the_comparison_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counting, "WEIGHTS_ON_CPU", 32)
    base, tuned = (on_disk(tmp_path / n, {"w": torch.ones(9999)}) for n in "ab")
    pairs = Pairs.open(base, tuned)
    with (tuned / "model.safetensors").open("r+b") as file:
        file.truncate(30_000)
    with pytest.raises(CheckpointError, match="cut short"):
        difference(pairs, rules(), Alone(), mask=tmp_path / "mask.safetensors", device=CPU)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_on_a_gpu_counts_mask_and_fingerprint_are_those_of_the_host(
    dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counting, "WEIGHTS_ON_GPU", 1024)
    base, finetuned = nasty_pair(dtype, dtype)
    before = tmp_path / "pytorch_model.bin"
    torch.save(base, before)
    pairs = Pairs.open(before, on_disk(tmp_path / "tuned", finetuned))
    how = rules(tolerances=_TOLERANCES)
    masks = [tmp_path / "host.safetensors", tmp_path / "gpu.safetensors"]
    found = [
        difference(pairs, how, Alone(), mask=mask, device=torch.device(device)).as_json()
        for mask, device in zip(masks, ("cpu", DEVICE), strict=True)
    ]
    for counts in found:
        for row in (counts, *counts["groups"], *counts["parameters"]):
            # Summed in another order.
            row["update_norm"] = float(f"{row['update_norm']:.10g}")
    assert found[0] == found[1]
    assert masks[0].read_bytes() == masks[1].read_bytes()
