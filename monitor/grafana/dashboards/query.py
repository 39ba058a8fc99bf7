"""A query of a panel, and the variables that queries refer to."""

from __future__ import annotations

from dataclasses import dataclass

from grafana_foundation_sdk.builders import prometheus
from grafana_foundation_sdk.models.common import DataSourceRef
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from monitor.grafana.promql.metric import Matchers

DATASOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")

JOB: Matchers = {"job": '=~"$job"'}
INSTANCE: Matchers = {**JOB, "instance": '=~"$instance"'}
# One run, as it is; several, as a regular expression that Grafana makes of them. Links between dashboards carry each
# variable along by its name, and one run cannot be several.
ONE_RUN: Matchers = {**JOB, "run": '="$run"'}
SOME_RUNS: Matchers = {**JOB, "run": '=~"$runs"'}
GROUPS: Matchers = {"layer": '=~"$layer"', "module": '=~"$module"'}
REFERENCE: Matchers = {"reference": '=~"$reference"'}

RATE = "$__rate_interval"


@dataclass(frozen=True)
class Query:
    """One query.

    Attributes:
        legend: name of each series, with labels in double braces; one of them in a query for a table is of no use.
        now: ask only for the present.
        table: as rows, with the labels as columns.
    """

    expr: str
    legend: str = ""
    now: bool = False
    table: bool = False

    def target(self, ref_id: str) -> prometheus.Dataquery:
        """Return it as the SDK wants it."""
        target = prometheus.Dataquery().ref_id(ref_id).datasource(DATASOURCE).expr(self.expr)
        target = target.legend_format(self.legend or "__auto")
        target = target.format(PromQueryFormat.TABLE if self.table else PromQueryFormat.TIME_SERIES)
        return target.instant() if self.now or self.table else target.range()
