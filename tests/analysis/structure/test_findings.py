"""Findings: the words follow the numbers, also where these are not what was published."""

from __future__ import annotations

import pytest
import torch

from monitor.analysis.structure.findings import Agreement, Finding, findings_of
from monitor.analysis.structure.measured import Structure, measure_matrix
from monitor.analysis.structure.published import RANK, unchanged
from monitor.analysis.structure.settings import StructureSettings
from monitor.analysis.structure.sums import Sums
from monitor.analysis.structure.update import Update
from monitor.observe.criterion import Criterion
from monitor.observe.weights.groups import GroupKey

SHAPE = (240, 200)


def found(base: torch.Tensor, finetuned: torch.Tensor, module: str = "mlp.up_proj") -> dict[str, Finding]:
    settings = StructureSettings()
    update = Update.between(base, finetuned, settings.visible_dtype, settings.criterion)
    matrix = measure_matrix(f"layers.0.{module}.weight", GroupKey(0, module), update, settings)
    structure = Structure(settings, (matrix,), Sums.nothing(), 0)
    return {finding.topic: finding for finding in findings_of(structure)}


@pytest.fixture
def base() -> torch.Tensor:
    return 0.02 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))


def noise(share: float | torch.Tensor, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 1e-3 * torch.randn(SHAPE, generator=generator) * (torch.rand(SHAPE, generator=generator) < share)


def test_a_sparse_update_with_few_large_directions_is_as_published(base: torch.Tensor) -> None:
    strong = torch.linspace(-1, 1, SHAPE[0]).outer(torch.ones(SHAPE[1]))

    rank = found(base, base + noise(0.2) + 2e-3 * strong * (noise(0.2) != 0))["rank"]

    assert rank.agreement is Agreement.AS_PUBLISHED
    assert "Updates are not low-rank: rank 100 % of the maximum" in rank.text
    assert "and yet the 16 largest singular values hold" in rank.text


def test_a_low_rank_update_is_called_one(base: torch.Tensor) -> None:
    # In a base of zeros, rounding to bfloat16 leaves a product of two vectors what it is: 16 times its powers of two.
    powers = 2.0 ** torch.randint(-3, 4, (SHAPE[0],), generator=torch.Generator().manual_seed(0))

    rank = found(torch.zeros(SHAPE), powers.outer(torch.ones(SHAPE[1])))["rank"]

    assert rank.agreement is Agreement.OTHERWISE
    assert "Updates are of low rank: rank 0.50 % of the maximum" in rank.text


def test_an_even_spectrum_is_not_called_concentrated(base: torch.Tensor) -> None:
    rank = found(torch.zeros(SHAPE), torch.eye(*SHAPE))["rank"]

    assert rank.agreement is Agreement.OTHERWISE
    assert "and the 16 largest singular values hold 8.0 % of the energy" in rank.text
    assert "16 of equal ones would hold 8.0 %" in rank.text


@pytest.mark.parametrize(
    ("module", "along", "agreement"),
    [
        ("self_attn.q_proj", 0, Agreement.AS_PUBLISHED),
        ("self_attn.q_proj", 1, Agreement.OTHERWISE),
        ("self_attn.o_proj", 1, Agreement.AS_PUBLISHED),
    ],
)
def test_stripes_are_looked_for_where_they_were_published(
    base: torch.Tensor, module: str, along: int, agreement: Agreement
) -> None:
    shares = torch.where(torch.arange(SHAPE[along]) % 5 == 0, 0.8, 0.1)

    stripes = found(base, base + noise(shares.unsqueeze(1 - along)), module)["stripes"]

    assert stripes.agreement is agreement
    assert ("do not gather" in stripes.text) is (agreement is Agreement.OTHERWISE)


def test_modules_without_published_stripes_have_no_finding_of_them(base: torch.Tensor) -> None:
    assert "stripes" not in found(base, base + noise(0.3))


def test_small_weights_that_change_first_are_enriched(base: torch.Tensor) -> None:
    # A shift of one size shows where the steps of bfloat16 are small.
    findings = found(base, base + 2e-5)

    assert findings["magnitude"].agreement is Agreement.AS_PUBLISHED
    assert findings["principal weights"].agreement is Agreement.AS_PUBLISHED
    assert "arXiv 2606.13657" in findings["magnitude"].text


def test_large_weights_that_change_first_are_not_as_published(base: torch.Tensor) -> None:
    large = base.abs() > base.abs().quantile(0.8)

    assert found(base, torch.where(large, base * 1.1, base))["magnitude"].agreement is Agreement.OTHERWISE


def test_nothing_is_claimed_of_an_update_without_sizes() -> None:
    findings = found(torch.zeros(SHAPE), torch.full(SHAPE, torch.nan))

    assert findings["not finite"].text.startswith("48,000 weights differ by NaN or infinity")
    assert findings["rank"].agreement is Agreement.UNKNOWN
    assert Agreement.AS_PUBLISHED not in {each.agreement for each in findings.values()}


def test_sparsity_is_compared_with_published_values_of_the_same_criterion_alone() -> None:
    assert {each.source for each in unchanged(Criterion(), torch.bfloat16)} == {"2511.08567"}
    assert {each.source for each in unchanged(Criterion(1e-5), torch.bfloat16)} == {"2505.11711"}
    assert unchanged(Criterion(1e-8), torch.bfloat16) == ()
    assert unchanged(Criterion(), torch.float32) == ()


@pytest.mark.parametrize(("value", "within"), [(0.992, True), (0.9979, True), (0.9985, False), (0.99, False)])
def test_a_published_range_ends_where_it_was_rounded_to(value: float, within: bool) -> None:
    assert RANK.holds(value) is within
