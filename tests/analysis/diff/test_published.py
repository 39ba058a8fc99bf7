"""The published method (arXiv 2505.11711), rewritten from its description, gives the same fractions where it can."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.analysis.diff.compared import compared, on_disk, rules

_TOLERANCES = (1e-8, 1e-5, 1e-4)


def published(base: dict[str, torch.Tensor], finetuned: dict[str, torch.Tensor]) -> dict[float | None, float]:
    """Subtract all weights, put them side by side; the share of exact zeros, and of those close to zero."""
    deltas = torch.cat([(finetuned[name].float() - base[name].float()).reshape(-1) for name in base])
    shares: dict[float | None, float] = {None: (deltas == 0).double().mean().item()}
    for tolerance in _TOLERANCES:
        # isclose allows atol + rtol·|other|; beside zero its relative part is nothing.
        close = torch.isclose(deltas, torch.zeros_like(deltas), atol=tolerance)
        shares[tolerance] = close.double().mean().item()
    return shares


def _weights(dtype: torch.dtype) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    base, finetuned = {}, {}
    for name, scale in (("layers.0.q.weight", 0.02), ("layers.0.norm.weight", 1.0), ("layers.1.q.weight", 1e-3)):
        weights = (torch.randn(64, 97, generator=generator) * scale).to(dtype)
        exponents = -5 * torch.rand(64, 1, generator=generator) - 1
        steps = torch.randn(weights.shape, generator=generator) * 10**exponents
        base[name], finetuned[name] = weights, (weights.float() * (1 + steps)).to(dtype)
    return base, finetuned


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_fractions_are_those_of_the_published_method(dtype: torch.dtype, tmp_path: Path) -> None:
    base, finetuned = _weights(dtype)
    found = compared(
        on_disk(tmp_path / "a", base), on_disk(tmp_path / "b", finetuned), rules(dtype=dtype, tolerances=_TOLERANCES)
    ).total
    expected = published(base, finetuned)
    shares = {tolerance: found.unchanged_at(tolerance) for tolerance in (None, *_TOLERANCES)}
    assert shares == pytest.approx(expected, abs=1e-15)
    assert len(set(shares.values())) == len(shares), "the weights do not tell the tolerances apart"


def test_isclose_between_the_weights_themselves_allows_more(tmp_path: Path) -> None:
    """Its relative tolerance is 1e-5 unless it is told otherwise: of large float32 weights that is more than atol."""
    base, finetuned = {"w": torch.tensor([100.0])}, {"w": torch.tensor([100.0 + 2**-12])}
    found = compared(
        on_disk(tmp_path / "a", base),
        on_disk(tmp_path / "b", finetuned),
        rules(dtype=torch.float32, tolerances=_TOLERANCES),
    ).total
    assert torch.isclose(finetuned["w"], base["w"], atol=1e-5).all()
    assert found.changed_at[1e-5] == 1
