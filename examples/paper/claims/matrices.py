"""All layers and matrices are about as sparse as each other; norms hardly change."""

from collections.abc import Callable
from functools import partial

from paper import plots
from paper.claims.claim import Claim, Runs, between, judged, percent
from paper.results import GroupCounts, Result

_SHOWN = ("grpo", "dpo", "sft")
_SIMILAR = 0.25
_KEPT = 0.9


def claim(runs: Runs) -> Claim:
    found = runs.named(_SHOWN)
    tables = {name: _sparsities(result, lambda group: group.module) for name, result in found}
    modules = list(next(iter(tables.values()), {}))
    matrices = [module for module in modules if "norm" not in module]
    norms = [module for module in modules if "norm" in module]
    similar, kept, highest = False, 0.0, 1.0
    finding = ""
    if "grpo" in tables:
        grpo, layers = tables["grpo"], _sparsities(runs.results["grpo"], lambda group: str(group.layer))
        of_matrices, of_norms = [grpo[each] for each in matrices], [grpo[each] for each in norms]
        of_layers = [share for layer, share in layers.items() if layer != "None"]
        similar = max(of_matrices) - min(of_matrices) <= _SIMILAR
        kept, highest = min(of_norms), max(of_matrices)
        finding = (
            f"With GRPO the matrices are {between(of_matrices)} sparse, the layers {between(of_layers)}, the norms "
            f"{between(of_norms)}."
        )
    return Claim(
        title="Layers and matrices are similarly sparse, and norms hardly change",
        published=(
            "All layers and matrices are similarly sparse; layer norms get little or no update (arXiv 2505.11711)."
        ),
        criterion=(
            "with GRPO, the sparsities of the matrices lie within 25 percentage points, and no norm is less sparse "
            "than a matrix; in part, if the first is so, or each norm is at least 90 % sparse."
        ),
        verdict=judged(runs, _SHOWN, lambda: similar and kept >= highest, lambda: similar or kept >= _KEPT),
        finding=finding,
        header=("module, all layers", *tables),
        rows=[(module, *(percent(table[module]) for table in tables.values())) for module in modules],
        plot=(
            "matrices",
            partial(
                plots.bars,
                labels=modules,
                series={name: [100 * table[module] for module in modules] for name, table in tables.items()},
                unit="cumulative sparsity in %, bits",
            ),
        ),
        why=(
            "The biases of the attention are counted with their matrices. Norms start at 1 and stay near it, where "
            "bfloat16 values are 0.004 to 0.008 apart: a step of 5e-5, or of SFT's 1e-3, is rounded away, so they stay "
            "whatever their gradient is."
        ),
    )


def _sparsities(result: Result, key: Callable[[GroupCounts], str]) -> dict[str, float]:
    """Return the sparsity of each kind of groups, in the order in which they come."""
    trained: dict[str, int] = {}
    changed: dict[str, int] = {}
    for group in result.groups:
        trained[key(group)] = trained.get(key(group), 0) + group.trained
        changed[key(group)] = changed.get(key(group), 0) + group.changed
    return {kind: 1 - changed[kind] / trained[kind] for kind in trained if trained[kind]}
