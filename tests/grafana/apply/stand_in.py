"""A stand-in for Grafana: an HTTP server that answers as the documentation of Grafana's HTTP API says.

It is not Grafana. It knows the requests that the documentation describes for folders, data sources, dashboards and
alerting provisioning, with their status codes and bodies, and answers 404 to everything else. What it does beyond the
documentation is taken from Grafana's source: an empty body with a rule that is not there, and after deleting one; 403
for a folder that is not there, unless an Admin asks.
"""

from __future__ import annotations

import copy
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

ADMIN, EDITOR, VIEWER = "glsa_admin", "glsa_editor", "glsa_viewer"
_NO_BODY = object()


class Request(NamedTuple):
    method: str
    path: str
    body: Any
    headers: dict[str, str]


class RefusedError(Exception):
    def __init__(self, status: int, message: str, body: Any = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = body if body is not None else {"message": message}


@dataclass
class StandIn:
    """Its state, which tests may change, and the requests that came.

    Attributes:
        refuse: called with each request; may raise RefusedError.
        deleted: dashboards that the index of Grafana's search still knows.
        moved_to: where it redirects to, if it does.
    """

    version: str = "12.1.0"
    alerting: bool = True
    refuse: Callable[[Request], None] = lambda _: None
    requests: list[Request] = field(default_factory=list)
    folders: dict[str, Any] = field(default_factory=dict)
    datasources: dict[str, Any] = field(default_factory=dict)
    dashboards: dict[str, Any] = field(default_factory=dict)
    deleted: dict[str, Any] = field(default_factory=dict)
    rules: dict[str, Any] = field(default_factory=dict)
    contact_points: list[Any] = field(default_factory=list)
    policies: dict[str, Any] = field(default_factory=lambda: {"receiver": "grafana-default-email"})
    url: str = ""
    moved_to: str | None = None
    folders_are_private: bool = False

    @property
    def readable_folders(self) -> set[str]:
        """Those that others than an Admin may read; of a folder that does not exist, they hear the same."""
        return set() if self.folders_are_private else set(self.folders)

    @property
    def writes(self) -> list[str]:
        """The requests that change something, in order."""
        return [f"{each.method} {each.path}" for each in self.requests if each.method != "GET"]

    def answer(self, request: Request) -> tuple[int, Any]:
        self.requests.append(request)
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if request.path == "/api/health":
            return 200, {"database": "ok", "version": self.version, "commit": "abc"}
        if token not in (ADMIN, EDITOR, VIEWER):
            raise RefusedError(401, "Invalid API key")
        self.refuse(request)
        if token == VIEWER and request.method != "GET":
            raise RefusedError(403, "You'll need additional permissions to perform this action")
        if token != ADMIN and request.path.startswith("/api/datasources"):
            raise RefusedError(403, "You'll need additional permissions: datasources:read")
        path = request.path.partition("?")[0]
        if token != ADMIN and path.startswith("/api/folders/") and path.split("/")[3] not in self.readable_folders:
            raise RefusedError(403, "You'll need additional permissions: folders:read")
        if path.startswith("/api/v1/provisioning") and not self.alerting:
            raise RefusedError(404, "Not found")
        for method, pattern, name in _ROUTES:
            match = re.fullmatch(pattern, path)
            if method == request.method and match:
                handler = getattr(self, name)
                return handler(*match.groups(), **({"body": request.body} if method in ("POST", "PUT") else {}))
        raise RefusedError(404, "Not found")

    def list_folders(self) -> tuple[int, Any]:
        return 200, list(self.folders.values())

    def get_folder(self, uid: str) -> tuple[int, Any]:
        return 200, _found(self.folders, uid, "folder not found")

    def post_folder(self, body: Any) -> tuple[int, Any]:
        if body["uid"] in self.folders:
            raise RefusedError(409, "the folder already exists")
        self.folders[body["uid"]] = {"id": len(self.folders) + 1, **body, "version": 1}
        return 200, self.folders[body["uid"]]

    def delete_folder(self, uid: str) -> tuple[int, Any]:
        _found(self.folders, uid, "folder not found")
        if any(rule["folderUID"] == uid for rule in self.rules.values()):
            raise RefusedError(400, "folder contains alert rules")
        self.dashboards = {key: each for key, each in self.dashboards.items() if each["meta"]["folderUid"] != uid}
        del self.folders[uid]
        return 200, {"message": "Folder deleted"}

    def search(self) -> tuple[int, Any]:
        """Everything, whatever was asked for: Grafana before 10 does not know the parameter folderUIDs."""
        dashboards = [
            {"uid": uid, "type": "dash-db", "folderUid": each["meta"]["folderUid"]}
            for uid, each in {**self.dashboards, **self.deleted}.items()
        ]
        folders = [
            {"uid": uid, "type": "dash-folder", "folderUid": each.get("parentUid", "")}
            for uid, each in self.folders.items()
        ]
        return 200, dashboards + folders

    def list_datasources(self) -> tuple[int, Any]:
        return 200, list(self.datasources.values())

    def get_datasource(self, uid: str) -> tuple[int, Any]:
        return 200, _found(self.datasources, uid, "Data source not found")

    def post_datasource(self, body: Any) -> tuple[int, Any]:
        if body["uid"] in self.datasources or any(each["name"] == body["name"] for each in self.datasources.values()):
            raise RefusedError(409, "data source with the same name already exists")
        self.datasources[body["uid"]] = {"id": 1, "orgId": 1, "isDefault": False, "readOnly": False, **body}
        return 200, {"datasource": self.datasources[body["uid"]], "message": "Datasource added"}

    def put_datasource(self, uid: str, body: Any) -> tuple[int, Any]:
        _found(self.datasources, uid, "Data source not found").update(body)
        return 200, {"message": "Datasource updated"}

    def delete_datasource(self, uid: str) -> tuple[int, Any]:
        _found(self.datasources, uid, "Data source not found")
        del self.datasources[uid]
        return 200, {"message": "Data source deleted"}

    def get_dashboard(self, uid: str) -> tuple[int, Any]:
        return 200, _found(self.dashboards, uid, "Dashboard not found")

    def post_dashboard(self, body: Any) -> tuple[int, Any]:
        dashboard = copy.deepcopy(body["dashboard"])
        uid = dashboard["uid"]
        if body["folderUid"] not in self.folders:
            raise RefusedError(400, "folder not found")
        before = self.dashboards.get(uid)
        if before and not body.get("overwrite"):
            raise RefusedError(412, "The dashboard has been changed by someone else")
        version = before["dashboard"]["version"] + 1 if before else 1
        # Newer versions of Grafana bring dashboards to their own schema.
        dashboard.update(id=7, version=version, schemaVersion=42)
        self.dashboards[uid] = {"dashboard": dashboard, "meta": {"folderUid": body["folderUid"], "version": version}}
        return 200, {"id": 7, "uid": uid, "status": "success", "version": version}

    def delete_dashboard(self, uid: str) -> tuple[int, Any]:
        _found(self.dashboards, uid, "Dashboard not found")
        self.deleted[uid] = self.dashboards.pop(uid)
        return 200, {"title": uid, "message": "Dashboard deleted", "id": 7}

    def get_rule(self, uid: str) -> tuple[int, Any]:
        if uid not in self.rules:
            return 404, _NO_BODY
        return 200, self.rules[uid]

    def post_rule(self, body: Any) -> tuple[int, Any]:
        if body["folderUID"] not in self.folders:
            raise RefusedError(400, "folder does not exist")
        if any(rule["title"] == body["title"] for rule in self.rules.values()):
            raise RefusedError(
                400, "a conflicting alert rule is found: rule title under the same folder should be unique"
            )
        self.rules[body["uid"]] = self._stored(body)
        return 201, self.rules[body["uid"]]

    def put_rule(self, uid: str, body: Any) -> tuple[int, Any]:
        if uid not in self.rules:
            return 404, _NO_BODY
        self.rules[uid] = self._stored({**body, "uid": uid})
        return 200, self.rules[uid]

    def _stored(self, rule: Any) -> Any:
        """As Grafana gives it back: durations in its own words, and fields of its own."""
        length = int(rule["for"].removesuffix("s"))
        duration = f"{length // 60}m" if length and length % 60 == 0 else f"{length}s"
        return {**copy.deepcopy(rule), "for": duration, "id": 3, "updated": "2024-01-01T00:00:00Z", "isPaused": False}

    def delete_rule(self, uid: str) -> tuple[int, Any]:
        self.rules.pop(uid, None)
        return 204, _NO_BODY

    def get_group(self, folder: str, group: str) -> tuple[int, Any]:
        rules = [rule for rule in self.rules.values() if (rule["folderUID"], rule["ruleGroup"]) == (folder, group)]
        if not rules:
            raise RefusedError(404, "rule group not found")
        return 200, {"title": group, "folderUid": folder, "interval": 60, "rules": rules}

    def list_contact_points(self) -> tuple[int, Any]:
        return 200, self.contact_points

    def post_contact_point(self, body: Any) -> tuple[int, Any]:
        self.contact_points.append(body)
        return 202, body

    def put_contact_point(self, uid: str, body: Any) -> tuple[int, Any]:
        self.contact_points = [body if each["uid"] == uid else each for each in self.contact_points]
        return 202, {"message": "contactpoint updated"}

    def delete_contact_point(self, uid: str) -> tuple[int, Any]:
        names = {each["name"] for each in self.contact_points if each["uid"] == uid}
        if any(route.get("receiver") in names for route in self.policies.get("routes", [])):
            raise RefusedError(500, "contact point is currently used by a notification policy")
        self.contact_points = [each for each in self.contact_points if each["uid"] != uid]
        return 202, {"message": "contactpoint deleted"}

    def get_policies(self) -> tuple[int, Any]:
        return 200, self.policies

    def put_policies(self, body: Any) -> tuple[int, Any]:
        known = {each["name"] for each in self.contact_points} | {"grafana-default-email"}
        if any(route["receiver"] not in known for route in body.get("routes", [])):
            raise RefusedError(400, "invalid object specification: receiver does not exist")
        self.policies = body
        return 202, {"message": "policies updated"}


_PROVISIONING = "/api/v1/provisioning"
_ROUTES = [
    ("GET", "/api/folders", "list_folders"),
    ("POST", "/api/folders", "post_folder"),
    ("GET", "/api/folders/([^/]+)", "get_folder"),
    ("DELETE", "/api/folders/([^/]+)", "delete_folder"),
    ("GET", "/api/search", "search"),
    ("GET", "/api/datasources", "list_datasources"),
    ("POST", "/api/datasources", "post_datasource"),
    ("GET", "/api/datasources/uid/([^/]+)", "get_datasource"),
    ("PUT", "/api/datasources/uid/([^/]+)", "put_datasource"),
    ("DELETE", "/api/datasources/uid/([^/]+)", "delete_datasource"),
    ("POST", "/api/dashboards/db", "post_dashboard"),
    ("GET", "/api/dashboards/uid/([^/]+)", "get_dashboard"),
    ("DELETE", "/api/dashboards/uid/([^/]+)", "delete_dashboard"),
    ("POST", f"{_PROVISIONING}/alert-rules", "post_rule"),
    ("GET", f"{_PROVISIONING}/alert-rules/([^/]+)", "get_rule"),
    ("PUT", f"{_PROVISIONING}/alert-rules/([^/]+)", "put_rule"),
    ("DELETE", f"{_PROVISIONING}/alert-rules/([^/]+)", "delete_rule"),
    ("GET", f"{_PROVISIONING}/folder/([^/]+)/rule-groups/([^/]+)", "get_group"),
    ("GET", f"{_PROVISIONING}/contact-points", "list_contact_points"),
    ("POST", f"{_PROVISIONING}/contact-points", "post_contact_point"),
    ("PUT", f"{_PROVISIONING}/contact-points/([^/]+)", "put_contact_point"),
    ("DELETE", f"{_PROVISIONING}/contact-points/([^/]+)", "delete_contact_point"),
    ("GET", f"{_PROVISIONING}/policies", "get_policies"),
    ("PUT", f"{_PROVISIONING}/policies", "put_policies"),
]


def _found(things: dict[str, Any], uid: str, message: str) -> Any:
    if uid not in things:
        raise RefusedError(404, message)
    return things[uid]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body in one packet: in two, the second waits for the first to be acknowledged.
    wbufsize = -1

    def _serve(self) -> None:
        text = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = Request(self.command, self.path, json.loads(text) if text else None, dict(self.headers))
        try:
            status, body = self.server.grafana.answer(request)  # type: ignore[attr-defined]
        except RefusedError as error:
            status, body = error.status, error.body
        content = b"" if body is _NO_BODY else body if isinstance(body, bytes) else json.dumps(body).encode()
        moved_to = self.server.grafana.moved_to  # type: ignore[attr-defined]
        self.send_response(301 if moved_to else status)
        if moved_to:
            self.send_header("Location", moved_to + self.path)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815 - names of the standard library

    def log_message(self, *_: Any) -> None:
        """Nothing: the requests are kept."""


@contextmanager
def running(**state: Any) -> Iterator[StandIn]:
    """Run a stand-in on a free port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    grafana = StandIn(url=f"http://127.0.0.1:{server.server_port}", **state)
    server.grafana = grafana  # type: ignore[attr-defined]
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield grafana
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
