"""Learning rate, rounding and optimizer make the sparsity: the cause that others name, and our own table of it."""

from functools import partial
from itertools import pairwise
from pathlib import Path

from paper import plots
from paper.claims.claim import Claim, Runs, brief, judged, percent
from paper.experiments import DTYPES, RATES, OptimizerName, Weights, all_experiments
from paper.results import Result

Cell = tuple[OptimizerName, Weights, float]


def claim(runs: Runs) -> Claim:
    cells = _cells(runs)
    rows = []
    for name, rates in RATES.items():
        for weights in DTYPES:
            for rate in rates:
                if (result := cells.get((name, weights, rate))) is not None:
                    rows.append(_row(name, weights, rate, result))
    return Claim(
        title="Learning rate, rounding and optimizer make the sparsity",
        published=(
            "Learning rate and bfloat16 rounding amplify the sparsity; with a higher rate it largely disappears (arXiv "
            "2511.08567). With float32 master weights 9.8–10.9 % of the visible weights change within 10 updates, and "
            "0.2–1.1 % within one in bfloat16 (2602.03839). With SGD at least 99.98 % stay, at full reward "
            "(2602.07729). No figures for Muon, and no table of optimizer, dtype and learning rate, were found: this "
            "is one."
        ),
        criterion=(
            "for each optimizer and dtype a higher learning rate gives less sparsity, and for each optimizer and rate "
            "float32 weights give less than bfloat16 ones; in part, if some of this is so."
        ),
        verdict=judged(
            runs,
            [_run(name, weights, rate) for name, rates in RATES.items() for weights in DTYPES for rate in rates],
            lambda: all(_orders(cells)),
            lambda: any(_orders(cells)),
        ),
        finding=_finding(cells) if rows else "",
        header=(
            "optimizer",
            "weights",
            "learning rate",
            "sparsity, bits",
            "last step left unchanged",
            "hidden",
            "right answers",
        ),
        rows=rows,
        plot=("optimizers", partial(_draw, cells=cells)),
        why=(
            "`hidden` are float32 weights that changed below what bfloat16 shows. The rates of SGD are no multiples of "
            "the others': its gradients are clipped to a norm of 1, so that the rate is the length of a step."
        ),
    )


def _cells(runs: Runs) -> dict[Cell, Result]:
    """The runs of GRPO that differ in nothing else."""
    return {
        (each.optimizer, each.weights, each.learning_rate): result
        for result in runs.results.values()
        if (each := result.experiment).name == "grpo" or each.name.startswith(tuple(f"grpo-{name}-" for name in RATES))
    }


def _run(name: OptimizerName, weights: Weights, rate: float) -> str:
    cell = (name, weights, rate)
    return next(
        each.name
        for each in all_experiments()
        if (each.name == "grpo" or each.name.startswith(f"grpo-{name}-"))
        and (each.optimizer, each.weights, each.learning_rate) == cell
    )


def _row(name: str, weights: str, rate: float, result: Result) -> tuple[str, ...]:
    return (
        name,
        weights,
        brief(rate),
        percent(result.sparsity, 2),
        percent(1 - result.step_changed / result.trained, 2),
        percent(result.hidden / result.trained),
        percent(result.right_answers),
    )


def _falls(cells: dict[Cell, Result], name: OptimizerName, weights: Weights) -> bool:
    """Whether a higher learning rate gives less sparsity, each time, and not just as much."""
    found = [cells[name, weights, rate].sparsity for rate in RATES[name] if (name, weights, rate) in cells]
    return len(found) == len(RATES[name]) and all(low > high for low, high in pairwise(found))


def _is_denser_in_float32(cells: dict[Cell, Result], name: OptimizerName) -> bool:
    rates = [rate for rate in RATES[name] if all((name, weights, rate) in cells for weights in DTYPES)]
    return bool(rates) and all(
        cells[name, "float32", rate].sparsity < cells[name, "bfloat16", rate].sparsity for rate in rates
    )


def _orders(cells: dict[Cell, Result]) -> list[bool]:
    shown = [_falls(cells, name, weights) for name in RATES for weights in DTYPES]
    return shown + [_is_denser_in_float32(cells, name) for name in RATES]


def _finding(cells: dict[Cell, Result]) -> str:
    falling = sum(_falls(cells, name, weights) for name in RATES for weights in DTYPES)
    denser = sum(_is_denser_in_float32(cells, name) for name in RATES)
    return (
        f"A higher learning rate gives less sparsity in {falling} of {len(RATES) * len(DTYPES)} rows of three, and "
        f"float32 weights less than bfloat16 ones for {denser} of {len(RATES)} optimizers."
    )


def _draw(path: Path, cells: dict[Cell, Result]) -> None:
    labels = [f"{name}, {weights}" for name in RATES for weights in DTYPES]
    values = [
        [100 * cells[name, weights, rate].sparsity if (name, weights, rate) in cells else None for rate in rates]
        for name, rates in RATES.items()
        for weights in DTYPES
    ]
    plots.heatmap(path, labels, ["lowest rate", "middle rate", "highest rate"], values)
