"""PromQL selectors of the service's metrics. A metric that the service does not export cannot be named here.

Hence the one import from the service: its table of metrics, which needs nothing else of it.
"""

from __future__ import annotations

from collections.abc import Mapping

from monitor.service.quantities.families import family

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


# Ids end in eight hexadecimal digits, unless a user chose them. Eight decimal ones may be a date, which several have.
_ENDS = "(.*-[0-9]{8})|.*-([0-9a-f]{8})|(.*)"
# Where ${…} is no variable, Grafana leaves it alone; of $1 our own readers of queries would not know.
_END = "${1}${2}${3}"


def told_apart(expr: str) -> str:
    """Put what tells runs apart before the name of each, where nothing cuts it off: `name` is "7f3a9c1e · grpo" then.

    >>> told_apart(metric("run_info")).startswith("label_join(label_replace(sparsity_monitor_run_info, ")
    True
    """
    return f'label_join({_with_id(expr)}, "name", " · ", "id", "name")'


def _with_id(expr: str) -> str:
    return f'label_replace({expr}, "id", "{_END}", "run", "{_ENDS}")'


def with_name(expr: str, matchers: Matchers = NOTHING, labels: str = "name") -> str:
    """Join labels of `run_info` to an expression about runs, which keeps its value."""
    return f"({expr}) * on ({IDENTITY}) group_left ({labels}) {metric('run_info', matchers)}"


def known_runs(matchers: Matchers = NOTHING) -> str:
    """Return `run_info` with the label `service_url`, without it where an older service does not say it."""
    runs = metric("run_info", matchers)
    service = metric("service_info", {label: value for label, value in matchers.items() if label == "job"})
    return f"({runs} * on (job, instance) group_left (service_url) {service} or ignoring (service_url) {runs})"


def shown(expr: str, matchers: Matchers = NOTHING) -> str:
    """Give an expression about runs what panels show and lead to: a name that tells apart, and `service_url`.

    Long names, which would push those of other runs out of a legend, are cut at their end.
    """
    return told_apart(cut("name", 39, _joined(expr, matchers)))


def shown_in_rows(expr: str, matchers: Matchers = NOTHING) -> str:
    """The same with the labels `name` and `id`, to be written in this order: labels of rows are cut at their left.

    Long names, which would leave no room for what the rows show, are cut at their end.
    """
    return cut("name", 29, _with_id(_joined(expr, matchers)))


def cut(label: str, letters: int, expr: str) -> str:
    """Cut what is longer in a label than so many letters, and one more, at its end."""
    return f'label_replace({expr}, "{label}", "${{1}}…", "{label}", "(.{{{letters}}}).{{2,}}")'


def _joined(expr: str, matchers: Matchers) -> str:
    return f"({expr}) * on ({IDENTITY}) group_left (name, service_url) {known_runs(matchers)}"
