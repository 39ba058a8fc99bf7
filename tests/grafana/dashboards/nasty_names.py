"""Names that people may give to runs, each with something that a stage on the way to dashboards means something by."""

from __future__ import annotations

NASTY_NAMES = (
    'ppo "v2", lr=1e-6',
    'a", run="somebody else\'s',
    'x"} 1 2 {name="y',
    "it's, `all`, of it",
    r"C:\runs\new \d+ \"",
    "$run ${run} $__all $1 ${1}",
    "(a|b).* [c]+? ^d$ {2}",
    "🙂 größe 机器",
    "all/of#it?&var-run=x %20",
    "long " * 39 + "tail!",
)
"""The last has 200 characters."""
