"""PromQL of pairs: services of one store, one of which serves while the others stand by."""

from __future__ import annotations

from monitor.grafana.promql.metric import Matchers, metric

# Of a target that is down, Prometheus knows its address, and what it was. The newest counts: it may have had another
# store before. Each look sees the last five minutes.
_LOOK_BACK = "7d:5m"


def serving(matchers: Matchers) -> str:
    """Return `store_info` of the services that have their store."""
    return f"{metric('store_info', matchers)} and on (job, instance) {metric('standing_by', matchers)} == 0"


def served_by_another(matchers: Matchers) -> str:
    """Return what each service that could be scraped lately had for a store, where one serves that store now."""
    newest = f"max_over_time(timestamp({metric('store_info', matchers)})[{_LOOK_BACK}])"
    return f"topk by (job, instance) (1, {newest}) and on (job, store) ({serving(matchers)})"


def left_alone(matchers: Matchers) -> str:
    """Return the services that serve, and expect another one to take over, where there is no other one."""
    of_a_pair = {**matchers, "standby": '="true"'}
    several = f"count by (job, store) ({metric('store_info', matchers)}) > 1"
    return f"{serving(of_a_pair)} unless on (job, store) ({several})"


def served_by_none(matchers: Matchers) -> str:
    """Return the stores whose services all stand by."""
    known = metric("store_info", matchers)
    standing_by = f"{metric('standing_by', matchers)} * on (job, instance) group_left (store) {known}"
    return f"min by (job, store) ({standing_by}) == 1"
