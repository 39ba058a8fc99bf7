"""The variables of the dashboards: what a reader chooses at the top."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import DatasourceVariable, QueryVariable
from grafana_foundation_sdk.models.dashboard import VariableHide, VariableOption, VariableRefresh, VariableSort

from monitor.grafana.dashboards.query import DATASOURCE, JOB, ONE_RUN, SOME_RUNS
from monitor.grafana.promql.metric import Matchers, metric, told_apart, with_name
from monitor.served_metrics import NAMES

_EVERYTHING = VariableOption(selected=True, text="All", value="$__all")
_STARTED = with_name(metric("run_started_timestamp_seconds", JOB), JOB)
# The newest first, since ids have no order that means anything.
_RUNS = f"query_result(sort_desc(max by (name, run) ({told_apart(_STARTED)})))"
# What query_result writes down, taken apart into what people read and what queries need. It escapes nothing: a name may
# hold quotes, and what looks like another label. So there are no labels but these two, and the last `run` is the run.
_NAME_AND_RUN = r'/^\{name="(?<text>.*)",run="(?<value>.*)"\} /'


def data_source() -> DatasourceVariable:
    """Any Prometheus."""
    return DatasourceVariable("datasource").label("Data source").type("prometheus")


def job() -> QueryVariable:
    """The services, by the job that scrapes them."""
    return _several("job", "Job", f"label_values({metric('build_info')}, job)")


def instance() -> QueryVariable:
    """The service processes."""
    return _several("instance", "Instance", f"label_values({metric('build_info', JOB)}, instance)")


def run() -> QueryVariable:
    """One run: shown by its name and id, meant by its id."""
    return _query("run", "Run", _RUNS).regex(_NAME_AND_RUN).sort(VariableSort.DISABLED).include_all(False).multi(False)


def runs() -> QueryVariable:
    """Several runs."""
    return _several("runs", "Runs", _RUNS).regex(_NAME_AND_RUN).sort(VariableSort.DISABLED)


def service_url() -> QueryVariable:
    """Where browsers find the service that knows the run. Nobody chooses it: links to its pages begin with it."""
    query = f"query_result({metric('service_info', JOB)} and on (job, instance) {metric('run_info', ONE_RUN)})"
    variable = _query("service_url", "Service", query).regex('/[{,]service_url="([^"]*)"/')
    return variable.include_all(False).multi(False).hide(VariableHide.HIDE_VARIABLE)


def layer(of: Matchers = ONE_RUN) -> QueryVariable:
    """Layers of the run; "-" stands for what belongs to none."""
    return _several("layer", "Layer", f"label_values({metric('group_weights', of)}, layer)")


def module(of: Matchers = ONE_RUN) -> QueryVariable:
    """Modules of the run's layers."""
    return _several("module", "Module", f"label_values({metric('group_weights', of)}, module)")


def reference(of: Matchers = ONE_RUN) -> QueryVariable:
    """Reference masks of the run."""
    return _several("reference", "Reference", f"label_values({metric('run_reference_weights', of)}, reference)")


def training_metric(of: Matchers = ONE_RUN) -> QueryVariable:
    """What the trainer logs; loss and reward to begin with."""
    chosen = VariableOption(selected=True, text=["loss", "reward"], value=["loss", "reward"])
    # What an engine serves is sent as if the trainer logged it, and has panels of its own.
    by_trainer = metric("run_training_metric", {**of, "metric": f'!~"{"|".join(NAMES)}"'})
    return _to_repeat("metric", "Training metric", by_trainer, "nothing logged").current(chosen)


def repeated_reference(of: Matchers) -> QueryVariable:
    """Reference masks of the runs, each with a panel of its own."""
    known = metric("run_reference_weights", of)
    return _to_repeat("reference", "Reference", known, "no reference mask").current(_EVERYTHING)


def _to_repeat(label: str, title: str, known: str, nothing: str) -> QueryVariable:
    # A panel repeats for what is chosen. With nothing to choose from, Grafana would call it "All".
    otherwise = f'label_replace(vector(1), "{label}", "{nothing}", "", "")'
    variable = _several(label, title, f"query_result(group by ({label}) ({known}) or on () {otherwise})")
    return variable.regex(rf'/^\{{{label}="(.*)"\}} /')


def of_run() -> list[DatasourceVariable | QueryVariable]:
    """The variables of a dashboard about one run."""
    return [data_source(), job(), run(), service_url(), layer(), module(), reference(), training_metric()]


def of_runs() -> list[DatasourceVariable | QueryVariable]:
    """The variables of a dashboard about several runs."""
    chosen = [each(SOME_RUNS) for each in (layer, module, repeated_reference, training_metric)]
    return [data_source(), job(), runs(), *chosen]


def of_service() -> list[DatasourceVariable | QueryVariable]:
    """The variables of a dashboard about service processes."""
    return [data_source(), job(), instance()]


def of_fleet() -> list[DatasourceVariable | QueryVariable]:
    """The variables of a dashboard about all runs."""
    return [data_source(), job()]


def _several(name: str, label: str, query: str) -> QueryVariable:
    # ".+" rather than the list of all values: a thousand runs make a long query.
    return _query(name, label, query).multi(True).include_all(True).all_value(".+").current(_EVERYTHING)


def _query(name: str, label: str, query: str) -> QueryVariable:
    variable = QueryVariable(name).label(label).datasource(DATASOURCE).query(query).definition(query)
    # Runs come and go while the page is open.
    variable = variable.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED).sort(VariableSort.ALPHABETICAL_ASC)
    return variable.hide(VariableHide.DONT_HIDE)
