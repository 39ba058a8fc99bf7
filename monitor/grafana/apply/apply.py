"""Puts dashboards and alerts into a Grafana, or takes them away: what differs is changed, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from monitor.errors import ConfigurationError
from monitor.grafana.addresses import DATASOURCE_UID, FOLDER_UID, GROUP, OLDEST_VERSION, UID_PREFIX
from monitor.grafana.alerts.settings import AlertSettings
from monitor.grafana.apply.client import Grafana, GrafanaError
from monitor.grafana.apply.difference import differences
from monitor.grafana.apply.resources import (
    AlertRule,
    ContactPoint,
    DashboardResource,
    DataSource,
    Folder,
    Resource,
    Route,
)
from monitor.grafana.dashboards import all_dashboards
from monitor.grafana.dashboards.board import opening_with
from monitor.grafana.rules.managed_rules import managed_rules

# How Grafana refuses to delete a folder with alert rules of other people.
_NOT_EMPTY = (400, 409)


@dataclass(frozen=True)
class Wish:
    """What a user wants to have in a Grafana.

    Attributes:
        datasource_uid: a Prometheus data source that exists there; None if ours is to be made.
        prometheus_url: where Grafana reaches Prometheus; with it, a data source of our own is made.
        webhook_url: where Grafana-managed alerts go; None leaves contact points and policies as they are.
        alerts: whether Grafana manages the alerts. Not where Prometheus and Alertmanager do: each would fire twice.
    """

    datasource_uid: str | None = None
    prometheus_url: str | None = None
    webhook_url: str | None = None
    alerts: bool = True
    settings: AlertSettings = field(default_factory=AlertSettings)


@dataclass(frozen=True)
class Step:
    """One change, made or to be made."""

    action: Literal["create", "replace", "delete", "keep"]
    title: str
    changes: Sequence[str] = ()


class HalfAppliedError(GrafanaError):
    """Some changes were made, and then one failed."""


def apply(grafana: Grafana, wish: Wish, tell: Callable[[Step], None], *, dry_run: bool = False) -> None:
    """Bring a Grafana to what is wished for. Doing it again changes nothing; after a failure, it completes.

    Raises:
        ConfigurationError: no data source can be chosen.
        GrafanaError: Grafana cannot be reached, refuses the token, or is too old; nothing was changed.
        HalfAppliedError: a change failed after others were made.
    """
    _check(grafana, wish)
    wish = _with_data_source(grafana, wish)
    wanted = _wanted(wish)
    obsolete = _obsolete(grafana, wanted) if wish.alerts else []
    steps = [_step(grafana, resource) for resource in wanted]
    steps += [(Step("delete", rule.title), rule.delete) for rule in obsolete]
    _carry_out(grafana, steps, tell, dry_run=dry_run)


def delete(grafana: Grafana, tell: Callable[[Step], None], *, dry_run: bool = False) -> None:
    """Take away all that `apply` may have put there. What others put into our folder stays, and with it the folder.

    Raises:
        GrafanaError: Grafana cannot be reached, refuses the token, or is too old; nothing was changed.
        HalfAppliedError: a change failed after others were made.
    """
    _check(grafana, Wish(alerts=False))
    everything = Wish(prometheus_url="any", webhook_url="any", alerts=_manages_alerts(grafana))
    candidates = [*_wanted(everything), *_obsolete(grafana, [])]
    present = {resource.title: resource for resource in candidates if resource.read(grafana) is not None}
    folder = present.pop(Folder.title, None)
    # The other way round: a contact point that a policy names cannot be deleted.
    steps = [(Step("delete", title), resource.delete) for title, resource in reversed(present.items())]
    _carry_out(grafana, steps, tell, dry_run=dry_run)
    if folder is not None:
        _delete_folder(grafana, tell, dry_run=dry_run)


def _delete_folder(grafana: Grafana, tell: Callable[[Step], None], *, dry_run: bool) -> None:
    if dry_run:
        tell(Step("delete", Folder.title, ("if nothing else is in it",)))
    elif Folder().is_shared(grafana):
        tell(Step("keep", Folder.title, ("other dashboards or folders are in it",)))
    else:
        tell(_without_contents(grafana))


def _without_contents(grafana: Grafana) -> Step:
    try:
        Folder().delete(grafana)
    except GrafanaError as error:
        if error.status not in _NOT_EMPTY:
            raise
        return Step("keep", Folder.title, (str(error),))
    return Step("delete", Folder.title)


def _check(grafana: Grafana, wish: Wish) -> None:
    """Find out what cannot work before anything is changed."""
    if grafana.get_list("folders", query="?limit=1") is None:
        raise GrafanaError(f"{grafana.url} has no /api/folders: is this a Grafana, with its path if it has one?")
    if wish.alerts and not _manages_alerts(grafana):
        raise GrafanaError(
            f"Grafana {grafana.version()} at {grafana.url} has no API for alert rules. Expected {OLDEST_VERSION} or "
            "newer with Grafana Alerting enabled; --no-alerts applies the dashboards alone"
        )


def _manages_alerts(grafana: Grafana) -> bool:
    return grafana.get_list("v1/provisioning/contact-points") is not None


def _with_data_source(grafana: Grafana, wish: Wish) -> Wish:
    """Choose the data source that alerts query and dashboards begin with."""
    if wish.prometheus_url is not None:
        return replace(wish, datasource_uid=DATASOURCE_UID)
    if wish.datasource_uid is not None:
        if not _may_exist(grafana, wish.datasource_uid):
            raise ConfigurationError(f"{grafana.url} has no data source with uid {wish.datasource_uid!r}")
        return wish
    found = grafana.get_list("datasources", fields=("uid", "name")) or []
    known = [each for each in found if each.get("type") == "prometheus"]
    chosen = [each for each in known if each.get("isDefault")] or known
    if len(chosen) == 1:
        return replace(wish, datasource_uid=str(chosen[0]["uid"]))
    names = ", ".join(f"{each['name']} (uid {each['uid']})" for each in known) or "none"
    raise ConfigurationError(
        f"{grafana.url} has no single Prometheus data source to choose; it has: {names}. Name one with "
        "--datasource-uid, or let one be made with --prometheus-url"
    )


def _may_exist(grafana: Grafana, datasource_uid: str) -> bool:
    try:
        return grafana.get("datasources/uid", datasource_uid) is not None
    except GrafanaError as error:
        # Editors may use data sources, and not read about them.
        if error.status == 403:
            return True
        raise


def _wanted(wish: Wish) -> list[Resource]:
    """Everything, in the order in which one thing needs the other."""
    uid = wish.datasource_uid or DATASOURCE_UID
    resources: list[Resource] = [Folder()]
    if wish.prometheus_url is not None:
        resources.append(DataSource(uid, wish.prometheus_url))
    for dashboard in all_dashboards(wish.settings).values():
        resources.append(DashboardResource(opening_with(uid, dashboard)))
    if wish.alerts:
        resources += [AlertRule(rule) for rule in managed_rules(wish.settings, uid)]
        if wish.webhook_url is not None:
            resources += [ContactPoint(wish.webhook_url), Route()]
    return resources


def _obsolete(grafana: Grafana, wanted: Sequence[Resource]) -> list[AlertRule]:
    """Rules in our group that an earlier version made, and this one does not know."""
    path = (f"v1/provisioning/folder/{FOLDER_UID}/rule-groups", GROUP)
    group = grafana.get(*path) or {}
    known = {resource.rule["uid"] for resource in wanted if isinstance(resource, AlertRule)}
    rules = [AlertRule(rule) for rule in grafana.checked(group.get("rules") or [], ("uid", "title"), *path)]
    return [rule for rule in rules if rule.rule["uid"] not in known and rule.rule["uid"].startswith(UID_PREFIX)]


def _step(grafana: Grafana, resource: Resource) -> tuple[Step, Callable[[Grafana], None] | None]:
    present = resource.read(grafana)
    if present is None:
        return Step("create", resource.title), resource.create
    changes = differences(resource.wanted, present)
    if not changes:
        return Step("keep", resource.title), None
    return Step("replace", resource.title, changes), resource.replace


def _carry_out(
    grafana: Grafana,
    steps: Sequence[tuple[Step, Callable[[Grafana], None] | None]],
    tell: Callable[[Step], None],
    *,
    dry_run: bool,
) -> None:
    done: list[str] = []
    for index, (step, change) in enumerate(steps):
        if change is not None and not dry_run:
            try:
                change(grafana)
            except GrafanaError as error:
                left = [each.title for each, other in steps[index:] if other is not None]
                raise _half_applied(error, done, left) from error
            done.append(step.title)
        tell(step)


def _half_applied(error: GrafanaError, done: Sequence[str], left: Sequence[str]) -> GrafanaError:
    if not done:
        return GrafanaError(f"{error}. Nothing was changed", error.status)
    return HalfAppliedError(
        f"{error}.\nDone before: {', '.join(done)}.\nNot done: {', '.join(left)}.\nOnce that is fixed, the same "
        "command completes it",
        error.status,
    )
