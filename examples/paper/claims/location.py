"""Updates land on small weights, beside the principal ones, and in stripes."""

from functools import partial

from monitor.analysis.structure.measured import MatrixStructure, Structure
from monitor.analysis.structure.profiles import lines_of_stripes
from paper import plots
from paper.claims.claim import Claim, Runs, judged, number, percent
from paper.structure import structure_of_update

_OF_RL = ("grpo", "rloo", "ppo", "prime")
_SHOWN = (*_OF_RL, "dpo", "sft-at-rl-rate", "sft", "grpo-adamw-float32-5e-05", "grpo-sgd-float32-0.1")
_STRIPED = 2.0


def claim(runs: Runs) -> Claim:
    found = {name: structure_of_update(runs.base, result.directory) for name, result in runs.named(_SHOWN)}
    of_rl = [structure for name, structure in found.items() if name in _OF_RL]
    small = all(structure.smallest.lift > 1 for structure in of_rl)
    beside = all(structure.principal.lift < 1 for structure in of_rl)
    striped = all(_stripes(structure) >= _STRIPED for structure in of_rl)
    return Claim(
        title="Updates land on small weights, beside the principal ones, in stripes",
        published=(
            "RL changes low-magnitude weights more often than chance and principal ones less often, and its updates "
            "gather in rows of Q, K and V and in columns of O (arXiv 2511.08567). Of the changed weights of on-policy "
            "distillation 25–49 % are among the smallest 10 %, and 4.4–5.5 % among the principal ones (2606.13657)."
        ),
        criterion=(
            "in each of GRPO, RLOO, PPO and PRIME, small weights are above chance, principal ones below it, and the "
            "variance of stripes at least twice that of chance; in part, if one of the three is so in each."
        ),
        verdict=judged(runs, _SHOWN, lambda: small and beside and striped, lambda: small or beside or striped),
        finding=(
            f"With RL, small weights are {'' if small else 'not always '}above chance, principal ones "
            f"{'' if beside else 'not always '}below it, and stripes {'' if striped else 'not always '}to be seen."
            if of_rl
            else ""
        ),
        header=(
            "run",
            "of changed, smallest 10 %",
            "lift, smallest",
            "of changed, principal 10 %",
            "lift, principal",
            "stripes",
        ),
        rows=[
            (
                name,
                percent(structure.smallest.o1),
                number(structure.smallest.lift, 2),
                percent(structure.principal.o1),
                number(structure.principal.lift, 2),
                number(_stripes(structure), 1),
            )
            for name, structure in found.items()
        ],
        plot=(
            "location",
            partial(
                plots.bars,
                labels=list(found),
                series={
                    "smallest 10 %": [structure.smallest.lift for structure in found.values()],
                    "principal 10 %": [structure.principal.lift for structure in found.values()],
                },
                unit="times as many changed weights as by chance",
            ),
        ),
        why=(
            "A lift is how many times as many changed weights lie there as by chance. `stripes` is the variance of the "
            "share that changed among rows of Q, K, V and columns of O, divided by that of chance, as a mean. Rounding "
            "to bfloat16 alone puts the changes of an optimizer with equal steps on small weights, which are the ones "
            "that such a step can move, and keeps them from principal ones, which are large."
        ),
    )


def _stripes(structure: Structure) -> float:
    """Return the mean dispersion along the lines that updates are said to gather in; 1 is chance."""
    return structure.mean(_dispersion)


def _dispersion(matrix: MatrixStructure) -> float | None:
    lines = lines_of_stripes(matrix.group.module)
    return None if lines is None else matrix.along(lines).dispersion
