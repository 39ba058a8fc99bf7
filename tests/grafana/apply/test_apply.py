"""Putting dashboards and alerts into a Grafana, request by request.

Against a stand-in that answers as the documentation of Grafana's HTTP API says: no Grafana can run in the tests.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from monitor.errors import ConfigurationError
from monitor.grafana.addresses import DATASOURCE_UID, FOLDER_UID
from monitor.grafana.alerts.catalogue import all_alerts
from monitor.grafana.alerts.settings import AlertSettings
from monitor.grafana.apply.apply import HalfAppliedError, Step, Wish, apply, delete
from monitor.grafana.apply.client import Grafana, GrafanaError
from monitor.grafana.dashboards import all_dashboards
from monitor.grafana.rules.managed_rules import rule_uid
from monitor.grafana.rules.notifications import CONTACT_POINT
from tests.grafana.apply.stand_in import ADMIN, EDITOR, VIEWER, RefusedError, Request, StandIn, running
from tests.proxy import EXCEPTIONS, VARIABLES, RefusingProxy, refusing_proxy

SETTINGS = AlertSettings()
ALERTS = all_alerts(SETTINGS)
OURS = Wish(prometheus_url="http://prometheus:9090")
WITH_WEBHOOK = Wish(prometheus_url="http://prometheus:9090", webhook_url="http://hook/")


def applied(grafana: StandIn, wish: Wish = OURS, token: str = ADMIN, **options: Any) -> list[Step]:
    steps: list[Step] = []
    apply(Grafana(grafana.url, token), wish, steps.append, **options)
    return steps


def deleted(grafana: StandIn, **options: Any) -> list[Step]:
    steps: list[Step] = []
    delete(Grafana(grafana.url, ADMIN), steps.append, **options)
    return steps


def test_creates_everything_in_the_order_of_what_needs_what(grafana: StandIn) -> None:
    steps = applied(grafana, WITH_WEBHOOK)
    assert {step.action for step in steps} == {"create"}
    assert grafana.writes == [
        "POST /api/folders",
        "POST /api/datasources",
        *["POST /api/dashboards/db"] * len(all_dashboards(SETTINGS)),
        *["POST /api/v1/provisioning/alert-rules"] * len(ALERTS),
        "POST /api/v1/provisioning/contact-points",
        "PUT /api/v1/provisioning/policies",
    ]
    assert grafana.datasources[DATASOURCE_UID]["url"] == "http://prometheus:9090"
    assert set(grafana.rules) == {rule_uid(alert) for alert in ALERTS}
    assert {each["meta"]["folderUid"] for each in grafana.dashboards.values()} == {FOLDER_UID}


def test_again_changes_nothing(grafana: StandIn) -> None:
    applied(grafana, WITH_WEBHOOK)
    grafana.requests.clear()
    steps = applied(grafana, WITH_WEBHOOK)
    assert [step for step in steps if step.action != "keep"] == []
    assert grafana.writes == []


def test_brings_back_what_was_changed_and_says_what(grafana: StandIn) -> None:
    applied(grafana)
    before = copy.deepcopy(grafana.dashboards["sparsity-monitor-run"]["dashboard"])
    grafana.dashboards["sparsity-monitor-run"]["dashboard"]["panels"][1]["title"] = "Mine"
    grafana.rules["sm-run-lost"]["for"] = "1h"
    grafana.requests.clear()
    changed = [step for step in applied(grafana) if step.action != "keep"]
    assert [(step.action, step.title, list(step.changes)) for step in changed] == [
        ("replace", "dashboard sparsity-monitor / Run", ["dashboard.panels[1].title: Mine → State"]),
        ("replace", "alert rule RunLost", ["for: 1h → 60s"]),
    ]
    assert grafana.writes == ["POST /api/dashboards/db", "PUT /api/v1/provisioning/alert-rules/sm-run-lost"]
    after = grafana.dashboards["sparsity-monitor-run"]["dashboard"]
    assert {**after, "version": 0} == {**before, "version": 0}


def test_dry_run_shows_what_would_change_and_changes_nothing(grafana: StandIn) -> None:
    steps = applied(grafana, WITH_WEBHOOK, dry_run=True)
    assert {step.action for step in steps} == {"create"}
    assert grafana.writes == []
    applied(grafana, WITH_WEBHOOK)
    grafana.requests.clear()
    (changed,) = [
        step
        for step in applied(grafana, Wish(prometheus_url="http://other:9090"), dry_run=True)
        if step.action != "keep"
    ]
    assert list(changed.changes) == ["url: http://prometheus:9090 → http://other:9090"]
    assert grafana.writes == []


def test_alerts_stay_editable_in_grafana(grafana: StandIn) -> None:
    applied(grafana, WITH_WEBHOOK)
    provisioning = [each for each in grafana.requests if each.path.startswith("/api/v1/") and each.method != "GET"]
    assert provisioning
    assert all(each.headers.get("X-Disable-Provenance") == "true" for each in provisioning)


def test_alert_that_is_no_more_is_deleted_and_that_of_others_stays(grafana: StandIn) -> None:
    applied(grafana)
    grafana.rules["sm-old"] = {
        "uid": "sm-old",
        "title": "Old",
        "folderUID": FOLDER_UID,
        "ruleGroup": "sparsity-monitor",
    }
    grafana.rules["theirs"] = {"uid": "theirs", "title": "Theirs", "folderUID": FOLDER_UID, "ruleGroup": "theirs"}
    grafana.rules["beside"] = {**grafana.rules["sm-old"], "uid": "beside", "title": "Beside ours"}
    (changed,) = [step for step in applied(grafana) if step.action != "keep"]
    assert (changed.action, changed.title) == ("delete", "alert rule Old")
    assert "sm-old" not in grafana.rules
    assert {"theirs", "beside"} <= set(grafana.rules)


def test_branches_of_others_stay_and_ours_comes_first(grafana: StandIn) -> None:
    theirs = {"receiver": "grafana-default-email", "object_matchers": [["team", "=", "a"]]}
    grafana.policies["routes"] = [theirs]
    applied(grafana, WITH_WEBHOOK)
    assert [each["receiver"] for each in grafana.policies["routes"]] == [CONTACT_POINT, "grafana-default-email"]
    assert grafana.policies["receiver"] == "grafana-default-email"
    deleted(grafana)
    assert grafana.policies["routes"] == [theirs]


def test_wrong_token_is_said_and_nothing_changed(grafana: StandIn) -> None:
    with pytest.raises(GrafanaError, match=r"401 to GET /api/folders.*token is wrong or has expired"):
        applied(grafana, token="glsa_wrong")
    assert grafana.writes == []


def test_missing_rights_are_said_and_nothing_changed(grafana: StandIn) -> None:
    grafana.datasources["p"] = _source("p")
    with pytest.raises(GrafanaError, match=r"403 to POST /api/folders.*role Admin.*Nothing was changed"):
        applied(grafana, Wish(datasource_uid="p"), token=VIEWER)
    with pytest.raises(GrafanaError, match=r"403 to GET /api/datasources.*lacks the right to do this"):
        applied(grafana, token=EDITOR)
    assert grafana.folders == {}


def test_editor_suffices_where_the_data_source_is_named(grafana: StandIn) -> None:
    applied(grafana, Wish(datasource_uid="p"), token=EDITOR)
    assert set(grafana.rules) == {rule_uid(alert) for alert in ALERTS}


def test_folder_that_is_there_and_cannot_be_read_is_taken_as_it_is(grafana: StandIn) -> None:
    applied(grafana)
    grafana.folders_are_private = True
    applied(grafana, Wish(datasource_uid=DATASOURCE_UID), token=EDITOR)
    assert set(grafana.folders) == {FOLDER_UID}


def test_folder_of_others_with_our_title_is_said(grafana: StandIn) -> None:
    def refuse(request: Request) -> None:
        if (request.method, request.path) == ("POST", "/api/folders"):
            raise RefusedError(412, "a folder with the same name already exists")

    grafana.refuse = refuse
    with pytest.raises(GrafanaError, match=r"same name already exists.*Nothing was changed"):
        applied(grafana)


def test_grafana_without_alert_provisioning_is_said(grafana: StandIn) -> None:
    grafana.alerting, grafana.version = False, "8.5.27"
    with pytest.raises(GrafanaError, match=r"Grafana 8\.5\.27 .* has no API for alert rules.*--no-alerts"):
        applied(grafana)
    assert grafana.writes == []
    applied(grafana, Wish(prometheus_url="http://p", alerts=False))
    assert set(grafana.dashboards) == {each["uid"] for each in all_dashboards(SETTINGS).values()}
    assert grafana.rules == {}
    deleted(grafana)
    assert grafana.dashboards == {}


def test_failure_half_way_says_what_is_done_and_the_same_again_completes_it(grafana: StandIn) -> None:
    def refuse(request: Request) -> None:
        if request.method == "POST" and "RunLost" in str(request.body):
            raise RefusedError(500, "database is locked")

    grafana.refuse = refuse
    with pytest.raises(HalfAppliedError) as error:
        applied(grafana)
    done, left = str(error.value).split("Not done:")
    assert "database is locked" in done
    assert "dashboard sparsity-monitor / Fleet" in done
    assert "alert rule ServiceDown" in done
    assert "alert rule RunLost" in left
    assert "alert rule SeriesBudgetExceeded" in left
    assert "the same command completes it" in left
    grafana.refuse = lambda _: None
    assert {step.title for step in applied(grafana) if step.action == "create"} == {
        title.strip(" .") for title in left.partition("\n")[0].split(",")
    }
    assert set(grafana.rules) == {rule_uid(alert) for alert in ALERTS}


def test_first_failure_says_that_nothing_was_changed(grafana: StandIn) -> None:
    def refuse(request: Request) -> None:
        if request.method == "POST":
            raise RefusedError(500, "read-only")

    grafana.refuse = refuse
    with pytest.raises(GrafanaError, match=r"read-only.*Nothing was changed"):
        applied(grafana)


@pytest.mark.parametrize("page", [b"<html>Sign in</html>", b"<html>no message here</html>"])
def test_something_that_is_no_grafana_is_said(grafana: StandIn, page: bytes) -> None:
    def refuse(_: Request) -> None:
        raise RefusedError(200 if b"Sign" in page else 502, "", page)

    grafana.refuse = refuse
    with pytest.raises(GrafanaError, match="is this a Grafana"):
        applied(grafana)


READ = {
    "/api/folders": list,
    f"/api/folders/{FOLDER_UID}": dict,
    "/api/datasources": list,
    "/api/search": list,
    "/api/dashboards/uid/sparsity-monitor-run": dict,
    "/api/v1/provisioning/alert-rules/sm-run-lost": dict,
    "/api/v1/provisioning/contact-points": list,
    "/api/v1/provisioning/policies": dict,
    f"/api/v1/provisioning/folder/{FOLDER_UID}/rule-groups/sparsity-monitor": dict,
}
SHAPES = [{}, [], None, "message", [1]]


def _of_the_right_shape(path: str, shape: Any) -> bool:
    if READ[path] is list:
        return isinstance(shape, list) and all(isinstance(each, dict) for each in shape)
    return isinstance(shape, dict)


@pytest.fixture(scope="module")
def with_all() -> StandIn:
    """A Grafana that everything was put into."""
    with running() as grafana:
        grafana.datasources["p"] = _source("p")
        applied(grafana, Wish(webhook_url="http://hook/"))
    return grafana


@pytest.mark.parametrize("path", READ)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("act", ["apply", "delete"])
def test_json_of_an_unexpected_shape_is_a_sentence(
    act: str, shape: Any, path: str, grafana: StandIn, with_all: StandIn
) -> None:
    for kept in ("folders", "datasources", "dashboards", "rules", "contact_points", "policies"):
        setattr(grafana, kept, copy.deepcopy(getattr(with_all, kept)))

    def refuse(request: Request) -> None:
        if request.method == "GET" and request.path.partition("?")[0] == path:
            raise RefusedError(200, "", json.dumps(shape).encode())

    grafana.refuse = refuse
    try:
        applied(grafana, Wish(webhook_url="http://hook/")) if act == "apply" else deleted(grafana)
    except (GrafanaError, ConfigurationError) as error:
        said = str(error)
        assert _of_the_right_shape(path, shape) or f"GET {path}" in said
        assert _of_the_right_shape(path, shape) or "Is this a Grafana of version 9.3 or newer" in said
        assert len(said) < 400
    else:
        asked = [each.path.partition("?")[0] for each in grafana.requests]
        assert _of_the_right_shape(path, shape) or path not in asked


@pytest.mark.parametrize(
    ("path", "answer", "said"),
    [
        ("/api/datasources", [{"type": "prometheus", "name": "P"}], "an entry without uid"),
        ("/api/datasources", [{"type": "prometheus", "uid": 1, "name": "P"}], "an entry without uid"),
        ("/api/datasources", [{"type": "prometheus", "uid": "p"}], "an entry without name"),
        ("/api/v1/provisioning/policies", {"routes": [1]}, "a list with a number; expected a list of objects"),
        ("/api/v1/provisioning/policies", {"routes": {"a": 1}}, "an object; expected a list"),
        (
            f"/api/v1/provisioning/folder/{FOLDER_UID}/rule-groups/sparsity-monitor",
            {"rules": [{"title": "Old"}]},
            "an entry without uid",
        ),
    ],
)
def test_fields_that_are_missing_are_named(path: str, answer: Any, said: str, grafana: StandIn) -> None:
    def refuse(request: Request) -> None:
        if request.path == path:
            raise RefusedError(200, "", answer)

    grafana.datasources["p"] = _source("p")
    grafana.refuse = refuse
    with pytest.raises(GrafanaError, match=re.escape(said)):
        applied(grafana, Wish(webhook_url="http://hook/"))
    assert grafana.writes == []


@pytest.mark.parametrize("status", [400, 403, 502])
@pytest.mark.parametrize(
    ("page", "said"),
    [
        (b"<html><title>\n Sign in\x1b[31m </title>" + b"x" * 9000, "a page called 'Sign in"),
        (b"  <!doctype html>" + b"x" * 9000, "a page rather than JSON"),
        (b"upstream " + b"x" * 9000, "xxx…"),
        (b"", "to GET /api/folders"),
        (b"[1]", "to GET /api/folders"),
        (b"null", "is this a Grafana"),
        (b'{"message": {"a": [1]}}', "{'a': [1]}"),
        (b'{"error": "no"}', "no"),
    ],
)
def test_what_a_proxy_refuses_with_is_told_shortly(page: bytes, said: str, status: int, grafana: StandIn) -> None:
    def refuse(_: Request) -> None:
        raise RefusedError(status, "", page)

    grafana.refuse = refuse
    with pytest.raises(GrafanaError) as error:
        applied(grafana)
    assert said in str(error.value)
    assert len(str(error.value)) < 900
    assert "\x1b" not in str(error.value)


@pytest.fixture
def proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RefusingProxy]:
    for name in VARIABLES + EXCEPTIONS:
        monkeypatch.delenv(name, raising=False)
    with refusing_proxy(tmp_path) as proxy:
        yield proxy


def test_a_grafana_on_this_machine_is_reached_past_a_proxy(
    grafana: StandIn, proxy: RefusingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, proxy.url())
    port = grafana.url.rpartition(":")[2]
    for host in ("127.0.0.1", "localhost"):
        apply(Grafana(f"http://{host}:{port}", ADMIN), OURS, lambda _: None)
    assert grafana.dashboards
    assert proxy.asked == []


@pytest.mark.parametrize("variable", ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"])
def test_the_proxy_that_refuses_a_grafana_elsewhere_is_named(
    variable: str, proxy: RefusingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, proxy.url("me:s3cret@"))
    with pytest.raises(GrafanaError) as failed:
        Grafana("https://grafana.invalid", ADMIN).get_list("folders")
    assert f"cannot be reached through the proxy of {variable}=http://***@{proxy.address}: " in str(failed.value)
    assert "s3cret" not in str(failed.value)
    assert set(proxy.asked) == {"CONNECT grafana.invalid:443"}


def test_grafana_that_is_not_there_is_said() -> None:
    with pytest.raises(GrafanaError, match="cannot be reached"):
        apply(Grafana("http://127.0.0.1:9", ADMIN), OURS, print)


def test_redirect_is_said_rather_than_followed(grafana: StandIn) -> None:
    grafana.moved_to = "https://grafana.example"
    with pytest.raises(GrafanaError, match=r"redirects GET /api/folders.* to https://grafana\.example/api/folders"):
        applied(grafana)


@pytest.mark.parametrize(
    "url", ["grafana", "ftp://grafana", "http://", "http://grafana/?x=1", "http://grafana:port", "http://[::1"]
)
def test_url_that_can_be_none_is_said(url: str) -> None:
    with pytest.raises(ConfigurationError, match="expected the URL of a Grafana"):
        Grafana(url, ADMIN)


@pytest.mark.parametrize("token", ["", " ", "glsa_x ", "glsa_ü"])
def test_token_that_can_be_none_is_said(token: str) -> None:
    with pytest.raises(ConfigurationError, match="token"):
        Grafana("http://grafana", token)


def _source(uid: str, kind: str = "prometheus", *, default: bool = False) -> dict[str, Any]:
    return {"uid": uid, "name": uid.upper(), "type": kind, "isDefault": default}


def test_the_only_prometheus_is_taken_and_left_as_it_is(grafana: StandIn) -> None:
    grafana.datasources = {"p": _source("p"), "l": _source("l", "loki", default=True)}
    applied(grafana, Wish())
    assert grafana.datasources == {"p": _source("p"), "l": _source("l", "loki", default=True)}
    assert {rule["data"][0]["datasourceUid"] for rule in grafana.rules.values()} == {"p"}
    opened = grafana.dashboards["sparsity-monitor-run"]["dashboard"]["templating"]["list"][0]
    assert opened["current"]["value"] == "p"


def test_the_default_prometheus_is_taken_from_several(grafana: StandIn) -> None:
    grafana.datasources = {"p": _source("p"), "q": _source("q", default=True)}
    applied(grafana, Wish())
    assert {rule["data"][0]["datasourceUid"] for rule in grafana.rules.values()} == {"q"}


@pytest.mark.parametrize("known", [{}, {"p": _source("p"), "q": _source("q")}])
def test_which_prometheus_is_asked_where_none_can_be_chosen(grafana: StandIn, known: dict[str, Any]) -> None:
    grafana.datasources = known
    with pytest.raises(ConfigurationError, match=r"no single Prometheus data source.*--datasource-uid"):
        applied(grafana, Wish())
    assert grafana.writes == []


def test_data_source_that_does_not_exist_is_said(grafana: StandIn) -> None:
    with pytest.raises(ConfigurationError, match="no data source with uid 'nowhere'"):
        applied(grafana, Wish(datasource_uid="nowhere"))


def test_delete_takes_away_all_of_it_and_nothing_else(grafana: StandIn) -> None:
    grafana.datasources["p"] = _source("p")
    applied(grafana, WITH_WEBHOOK)
    assert {step.action for step in deleted(grafana)} == {"delete"}
    assert (grafana.folders, grafana.dashboards, grafana.rules, grafana.contact_points) == ({}, {}, {}, [])
    assert set(grafana.datasources) == {"p"}
    grafana.requests.clear()
    assert deleted(grafana) == []
    assert grafana.writes == []


def test_folder_with_dashboards_of_others_is_kept(grafana: StandIn) -> None:
    applied(grafana)
    grafana.dashboards["theirs"] = {"dashboard": {"uid": "theirs"}, "meta": {"folderUid": FOLDER_UID}}
    (kept,) = [step for step in deleted(grafana) if step.action == "keep"]
    assert kept == Step("keep", "folder sparsity-monitor", ("other dashboards or folders are in it",))
    assert set(grafana.dashboards) == {"theirs"}


def test_folder_with_folders_of_others_is_kept(grafana: StandIn) -> None:
    applied(grafana)
    grafana.folders["theirs"] = {"uid": "theirs", "title": "Theirs", "parentUid": FOLDER_UID}
    assert deleted(grafana)[-1] == Step("keep", "folder sparsity-monitor", ("other dashboards or folders are in it",))
    assert set(grafana.folders) == {FOLDER_UID, "theirs"}


def test_folder_is_deleted_beside_dashboards_elsewhere(grafana: StandIn) -> None:
    applied(grafana)
    grafana.dashboards["theirs"] = {"dashboard": {"uid": "theirs"}, "meta": {"folderUid": "elsewhere"}}
    assert deleted(grafana)[-1] == Step("delete", "folder sparsity-monitor")


def test_folder_with_rules_of_others_is_kept(grafana: StandIn) -> None:
    applied(grafana)
    grafana.rules["theirs"] = {
        "uid": "theirs",
        "title": "Theirs",
        "folderUID": FOLDER_UID,
        "ruleGroup": "sparsity-monitor",
    }
    kept = deleted(grafana)[-1]
    assert (kept.action, kept.title) == ("keep", "folder sparsity-monitor")
    assert "folder contains alert rules" in kept.changes[0]
    assert set(grafana.rules) == {"theirs"}


def test_dry_run_of_delete_deletes_nothing(grafana: StandIn) -> None:
    applied(grafana)
    grafana.requests.clear()
    assert {step.action for step in deleted(grafana, dry_run=True)} == {"delete"}
    assert grafana.writes == []


def test_grafana_below_a_path(grafana: StandIn) -> None:
    with pytest.raises(GrafanaError, match="has no /api/folders"):
        apply(Grafana(grafana.url + "/monitoring/", ADMIN), OURS, print)
    assert [each.path for each in grafana.requests] == ["/monitoring/api/folders?limit=1"]
