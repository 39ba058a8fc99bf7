"""PromQL selectors of the service's metrics. A metric that the service does not export cannot be named here.

Hence the one import from the service: its table of metrics, which needs nothing else of it.
"""

from __future__ import annotations

from collections.abc import Mapping

from monitor.service.families import family

Matchers = Mapping[str, str]
"""Label → operator and value, such as {"run": '="7f"'}."""

NOTHING: Matchers = {}

IDENTITY = "job, instance, run"
"""The labels that all series of a run have in common: what joins match on, so that two services may know one run."""

_SCRAPED = ("job", "instance")


def metric(name: str, matchers: Matchers = NOTHING, *, suffix: str = "") -> str:
    """Return the selector of a metric, given without the prefix. Matchers of labels that it does not have are left out.

    >>> metric("run_step", {"run": '="7f"', "layer": '="01"'})
    'sparsity_monitor_run_step{run="7f"}'

    Args:
        suffix: of a histogram's series, such as "_bucket".

    Raises:
        KeyError: the service has no such metric.
    """
    known = family(name)
    labels = (*_SCRAPED, *known.labels)
    return known.name + suffix + braces({label: value for label, value in matchers.items() if label in labels})


def braces(matchers: Matchers) -> str:
    """Return the matchers as PromQL writes them, nothing if there are none.

    >>> braces({"layer": '!="-"'})
    '{layer!="-"}'
    """
    return "{" + ", ".join(label + value for label, value in matchers.items()) + "}" if matchers else ""


def told_apart(expr: str) -> str:
    """Add its id to the name of each run, since several may have one name: `name` is "grpo · 7f" then.

    >>> told_apart(metric("run_info"))
    'label_join(sparsity_monitor_run_info, "name", " · ", "name", "run")'
    """
    return f'label_join({expr}, "name", " · ", "name", "run")'


def with_name(expr: str, matchers: Matchers = NOTHING, labels: str = "name") -> str:
    """Join labels of `run_info` to an expression about runs, which keeps its value."""
    return f"({expr}) * on ({IDENTITY}) group_left ({labels}) {metric('run_info', matchers)}"
