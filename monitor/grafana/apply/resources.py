"""What is put into a Grafana, kind by kind: how to read it, and how to create, replace and delete it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from monitor.grafana.addresses import DASHBOARD_UIDS, FOLDER_TITLE, FOLDER_UID, GROUP
from monitor.grafana.apply.client import Grafana, GrafanaError
from monitor.grafana.rules.notifications import CONTACT_POINT, CONTACT_POINT_UID, contact_point, route

# How Grafana refuses to create a folder that exists, by its version.
_IS_THERE = (409, 412)
_POLICIES = "v1/provisioning/policies"


class Resource(Protocol):
    """One thing in a Grafana, known by its uid."""

    @property
    def title(self) -> str:
        """What people call it."""

    @property
    def wanted(self) -> Any:
        """What it should be."""

    def read(self, grafana: Grafana) -> Any:
        """Return what is there, in the form of `wanted`; None if there is nothing."""

    def create(self, grafana: Grafana) -> None:
        """Put it there."""

    def replace(self, grafana: Grafana) -> None:
        """Bring what is there to what is wanted."""

    def delete(self, grafana: Grafana) -> None:
        """Take it away."""


@dataclass(frozen=True)
class Folder:
    """The folder of dashboards and alert rules. Its title is the user's to change."""

    title = f"folder {FOLDER_TITLE}"
    wanted = {"uid": FOLDER_UID}  # noqa: RUF012 - never changed

    def read(self, grafana: Grafana) -> Any:
        return self._read(grafana, unknown=None)

    def create(self, grafana: Grafana) -> None:
        try:
            grafana.post({"uid": FOLDER_UID, "title": FOLDER_TITLE}, "folders")
        except GrafanaError as error:
            # Grafana also refuses a title that another folder has.
            if error.status not in _IS_THERE or self._read(grafana, unknown=True) is None:
                raise

    def replace(self, grafana: Grafana) -> None:
        """Nothing is ever to be replaced."""

    def delete(self, grafana: Grafana) -> None:
        # Grafana refuses this where the folder holds other people's rules.
        grafana.delete("folders", FOLDER_UID, query="?forceDeleteRules=false")

    def _read(self, grafana: Grafana, unknown: Any) -> Any:
        try:
            return grafana.get("folders", FOLDER_UID)
        except GrafanaError as error:
            # Grafana answers an Editor with 403 for a folder that does not exist, too.
            if error.status == 403:
                return unknown
            raise

    def is_shared(self, grafana: Grafana) -> bool:
        """Say whether it holds dashboards or folders of other people, which would be deleted with it."""
        # Grafana before 10 knows no folderUIDs, and returns everything; new ones find what was deleted just now.
        found = grafana.get_list("search", query=f"?folderUIDs={FOLDER_UID}&limit=5000") or []
        return any(each.get("folderUid") == FOLDER_UID and each.get("uid") not in DASHBOARD_UIDS for each in found)


@dataclass(frozen=True)
class DataSource:
    """A Prometheus data source of our own."""

    uid: str
    url: str

    @property
    def title(self) -> str:
        return f"data source {self.uid}"

    @property
    def wanted(self) -> dict[str, Any]:
        return {
            "uid": self.uid,
            "name": "Prometheus (sparsity-monitor)",
            "type": "prometheus",
            "access": "proxy",
            "url": self.url,
            "jsonData": {"httpMethod": "POST"},
        }

    def read(self, grafana: Grafana) -> Any:
        return grafana.get("datasources/uid", self.uid)

    def create(self, grafana: Grafana) -> None:
        grafana.post(self.wanted, "datasources")

    def replace(self, grafana: Grafana) -> None:
        grafana.put(self.wanted, "datasources/uid", self.uid)

    def delete(self, grafana: Grafana) -> None:
        grafana.delete("datasources/uid", self.uid)


@dataclass(frozen=True)
class DashboardResource:
    """A dashboard in our folder."""

    content: dict[str, Any]

    @property
    def title(self) -> str:
        return f"dashboard {self.content['title']}"

    @property
    def wanted(self) -> dict[str, Any]:
        # Newer versions of Grafana give back a newer schema.
        content = {key: value for key, value in self.content.items() if key != "schemaVersion"}
        return {"dashboard": content, "meta": {"folderUid": FOLDER_UID}}

    def read(self, grafana: Grafana) -> Any:
        return grafana.get("dashboards/uid", self.content["uid"])

    def create(self, grafana: Grafana) -> None:
        dashboard = {**self.content, "id": None}
        body = {"dashboard": dashboard, "folderUid": FOLDER_UID, "overwrite": True, "message": "sparsity-monitor"}
        grafana.post(body, "dashboards/db")

    def replace(self, grafana: Grafana) -> None:
        self.create(grafana)

    def delete(self, grafana: Grafana) -> None:
        grafana.delete("dashboards/uid", self.content["uid"])


@dataclass(frozen=True)
class AlertRule:
    """A Grafana-managed alert rule in our folder."""

    rule: dict[str, Any]

    @property
    def title(self) -> str:
        return f"alert rule {self.rule['title']}"

    @property
    def wanted(self) -> dict[str, Any]:
        return {**self.rule, "folderUID": FOLDER_UID, "ruleGroup": GROUP}

    def read(self, grafana: Grafana) -> Any:
        return grafana.get("v1/provisioning/alert-rules", self.rule["uid"])

    def create(self, grafana: Grafana) -> None:
        grafana.post({**self.wanted, "orgID": 1}, "v1/provisioning/alert-rules")

    def replace(self, grafana: Grafana) -> None:
        grafana.put({**self.wanted, "orgID": 1}, "v1/provisioning/alert-rules", self.rule["uid"])

    def delete(self, grafana: Grafana) -> None:
        grafana.delete("v1/provisioning/alert-rules", self.rule["uid"])


@dataclass(frozen=True)
class ContactPoint:
    """The webhook that alerts go to."""

    webhook_url: str

    title = f"contact point {CONTACT_POINT}"

    @property
    def wanted(self) -> dict[str, Any]:
        return contact_point(self.webhook_url)

    def read(self, grafana: Grafana) -> Any:
        points = grafana.get_list("v1/provisioning/contact-points") or []
        return next((point for point in points if point.get("uid") == CONTACT_POINT_UID), None)

    def create(self, grafana: Grafana) -> None:
        grafana.post(self.wanted, "v1/provisioning/contact-points")

    def replace(self, grafana: Grafana) -> None:
        grafana.put(self.wanted, "v1/provisioning/contact-points", CONTACT_POINT_UID)

    def delete(self, grafana: Grafana) -> None:
        grafana.delete("v1/provisioning/contact-points", CONTACT_POINT_UID)


@dataclass(frozen=True)
class Route:
    """Our branch of the one tree of notification policies. The other branches are other people's, and stay."""

    title = "notification policy for service=sparsity-monitor"

    @property
    def wanted(self) -> dict[str, Any]:
        return route()

    def read(self, grafana: Grafana) -> Any:
        ours = [each for each in _branches(grafana, self._tree(grafana)) if _is_ours(each)]
        return ours[0] if ours else None

    def create(self, grafana: Grafana) -> None:
        self._put(grafana, [route()])

    def replace(self, grafana: Grafana) -> None:
        self._put(grafana, [route()])

    def delete(self, grafana: Grafana) -> None:
        self._put(grafana, [])

    def _put(self, grafana: Grafana, ours: list[dict[str, Any]]) -> None:
        tree = self._tree(grafana)
        others = [each for each in _branches(grafana, tree) if not _is_ours(each)]
        # First, so that no branch that matches everything takes our alerts.
        grafana.put({**tree, "routes": [*ours, *others]}, _POLICIES)

    def _tree(self, grafana: Grafana) -> dict[str, Any]:
        tree = grafana.get(_POLICIES) or {}
        return {key: value for key, value in tree.items() if key != "provenance"}


def _branches(grafana: Grafana, tree: dict[str, Any]) -> list[dict[str, Any]]:
    return grafana.checked(tree.get("routes") or [], (), _POLICIES)


def _is_ours(branch: dict[str, Any]) -> bool:
    return branch.get("receiver") == CONTACT_POINT
