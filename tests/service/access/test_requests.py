"""Tokens over HTTP: programs with a header, a real Prometheus with its own token, browsers with a cookie."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import httpx
import pytest

from monitor.errors import ReportingError
from monitor.notebook.interface import Interface
from monitor.service.access.scopes import Scope
from monitor.service.care.tokens import create, revoke
from monitor.service.web.sessions import COOKIE, SECONDS, Sessions
from monitor.wire.credentials import TOKEN, TOKEN_FILE
from tests.end_to_end.prometheus import running_prometheus
from tests.eventually import eventually
from tests.service.access.closed import EXPIRED, REVOKED, UNKNOWN, Certificates, Closed, closed_service

PROTECTED = [
    "/",
    "/runs/x",
    "/runbook",
    "/api/runs",
    "/api/v1/runs",
    "/api/openapi.json",
    "/api/v1/runs/x/events",
    "/no",
]
PAGE = {"Accept": "text/html"}


@pytest.mark.parametrize("path", [*PROTECTED, "/metrics"])
def test_an_address_takes_the_tokens_that_allow_it_and_no_others(path: str, closed: Closed) -> None:
    http, metrics = closed.client.http, path == "/metrics"
    for token in (None, UNKNOWN, EXPIRED, REVOKED):
        answer = http.get(path, headers=closed.header(token))
        assert answer.status_code in (401, 429)
        assert "token" in answer.json()["detail"]
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    for token in ("write", "metrics"):
        expected = 200 if metrics and token == "metrics" else 403
        assert http.get(path, headers=closed.header(token)).status_code == expected
    for token in ("read", "administer"):
        assert http.get(path, headers=closed.header(token)).status_code in (200, 404)


def test_who_has_no_token_is_asked_for_one_in_the_way_of_http(tmp_path: Path) -> None:
    with closed_service(tmp_path) as service:
        answer = service.client.http.get("/api/v1/runs")
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="sparsity-monitor"'
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_health_is_open_to_all(closed: Closed) -> None:
    assert closed.client.http.get("/healthz").status_code == 200
    assert closed.client.http.get("/readyz").status_code == 200


@pytest.mark.parametrize("host", ["a/healthz?", "a/healthz#", "a/login?b="])
def test_what_a_caller_says_of_the_host_opens_nothing(host: str, closed: Closed) -> None:
    assert closed.client.http.get("/api/runs", headers={"Host": host}).status_code in (401, 429)


def test_a_notebook_reads_with_the_token_of_the_environment(closed: Closed, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Interface(f"http://{closed.client.listening.http_address}")
    with pytest.raises(ReportingError, match=f"does not let this in: .*no token was given.*{TOKEN_FILE}"):
        read.get("runs")
    monkeypatch.setenv(TOKEN, closed.tokens["write"])
    with pytest.raises(ReportingError, match="has the scope write, and this needs read"):
        read.get("runs")
    monkeypatch.setenv(TOKEN, closed.tokens["read"])
    assert read.get("runs")["runs"] == []


_SCRAPE = """
global: {{scrape_interval: 1s}}
scrape_configs:
  - job_name: with-a-token
    authorization: {{credentials_file: {file}}}
    static_configs: [targets: ["{target}"]]
  - job_name: without
    static_configs: [targets: ["{target}"]]
"""


def test_prometheus_scrapes_with_a_token_of_its_own(closed: Closed, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(closed.tokens["metrics"] + "\n")
    target = closed.client.listening.http_address
    configuration = _SCRAPE.format(file=tmp_path / "token", target=target)
    with running_prometheus(tmp_path, target, configuration) as prometheus:
        eventually(lambda: len(prometheus.query("up")) == 2)
        assert {labels["job"]: value for labels, value in prometheus.query("up")} == {"with-a-token": 1, "without": 0}
        assert prometheus.query("sparsity_monitor_build_info")


@pytest.fixture
def browser(closed: Closed) -> Iterator[httpx.Client]:
    url = closed.client.http.base_url
    with httpx.Client(base_url=url, headers=PAGE, trust_env=False, verify=False, timeout=60) as client:
        yield client


def test_a_browser_logs_in_goes_on_to_where_it_was_and_out_again(browser: httpx.Client, closed: Closed) -> None:
    asked = browser.get("/runs/x?step=1")
    assert (asked.status_code, asked.headers["Location"]) == (303, "/login?to=%2Fruns%2Fx%3Fstep%3D1")
    shown = browser.get(asked.headers["Location"])
    assert 'value="/runs/x?step=1"' in shown.text
    assert "form-action 'self'" in shown.headers["Content-Security-Policy"]
    for wrong in (UNKNOWN, "write"):
        refused = browser.post("/login", data={"token": closed.tokens[wrong], "to": "/"})
        assert refused.status_code in (401, 403, 429)
        assert closed.tokens[wrong] not in refused.text
        assert "Not let in" in refused.text
        assert not browser.cookies
    done = browser.post("/login", data={"token": closed.tokens["read"], "to": "/runs/x?step=1"})
    assert (done.status_code, done.headers["Location"]) == (303, "/runs/x?step=1")
    cookie = done.headers["Set-Cookie"]
    assert re.search(r"HttpOnly; Max-Age=43200; Path=/; SameSite=lax$", cookie)
    assert closed.tokens["read"] not in cookie
    assert browser.get("/").status_code == 200
    assert browser.get("/api/v1/runs", headers={"Accept": "*/*"}).status_code == 200
    kept = browser.cookies[COOKIE]
    for page in ("/", "/runbook", "/runs/none", "/login"):
        assert 'action="/logout"' in browser.get(page).text, page
    assert browser.post("/logout", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert browser.get("/").status_code == 200
    assert browser.post("/logout").status_code == 303
    assert 'action="/logout"' not in browser.get("/login").text
    assert browser.get("/", headers={"Cookie": f"{COOKIE}={kept}"}).status_code == 303
    # What a page that was left open goes on to ask.
    left_open = browser.get("/api/v1/runs", headers={"Cookie": f"{COOKIE}={kept}", "Accept": "*/*"})
    assert left_open.status_code == 401
    assert "log in at /login" in left_open.json()["detail"]


def test_a_login_ends_with_its_token(browser: httpx.Client, closed: Closed) -> None:
    secret, _ = create(closed.store_url, "guest", [Scope.READ], None)
    log_in = {"token": secret}
    # At once, or a moment later where too many others failed before.
    eventually(lambda: browser.post("/login", data=log_in).status_code == HTTPStatus.SEE_OTHER)
    assert browser.get("/").status_code == 200
    revoke(closed.store_url, "guest")
    eventually(lambda: browser.get("/").status_code == 401)
    assert "was revoked at" in browser.get("/").text


@pytest.mark.parametrize("to", ["//evil.example", "/\\evil.example", "https://evil.example/", "/a\nb", ""])
def test_a_login_leads_to_no_other_place(to: str, browser: httpx.Client, closed: Closed) -> None:
    done = browser.post("/login", data={"token": closed.tokens["read"], "to": to})
    assert done.headers["Location"] == "/"
    assert browser.get("/login", params={"to": to}).text.count("evil") == 0


def test_forms_of_other_sites_and_endless_ones_are_refused(browser: httpx.Client, closed: Closed) -> None:
    data = {"token": closed.tokens["read"]}
    assert browser.post("/login", data=data, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert browser.post("/login", data={"token": "x" * 100_000}).status_code == 413


def _context(certificates: Certificates) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificates.ca)


def test_over_https_the_cookie_goes_nowhere_else(certificates: Certificates, tmp_path: Path) -> None:
    given = {"tls_certificate": certificates.certificate, "tls_key": certificates.key}
    with (
        closed_service(tmp_path, **given) as service,
        httpx.Client(verify=_context(certificates), trust_env=False, timeout=60) as browser,
    ):
        url = f"https://{service.client.listening.http_address}/login"
        assert "; Secure" in browser.post(url, data={"token": service.tokens["read"]}).headers["Set-Cookie"]


def test_a_login_does_not_last_for_ever() -> None:
    sessions = Sessions(clock=lambda: now)
    now = 0.0
    session = sessions.begin(b"digest")
    now = SECONDS - 1.0
    assert sessions.digest(session) == b"digest"
    now = float(SECONDS)
    assert sessions.digest(session) is None
