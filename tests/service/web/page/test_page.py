from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest

from monitor.grafana.alerts.catalogue import all_alerts
from monitor.grafana.alerts.settings import AlertSettings
from monitor.percent import percent
from monitor.service.times import when
from monitor.service.web.page import count
from monitor.service.web.page.runbook import rendered
from monitor.wire import monitor_pb2 as pb
from tests.service.messages import logged, observed, registration, stacked_groups
from tests.service.running import Client

HOSTILE = "<script>alert('x')</script>\"&"


def test_a_service_without_runs_says_what_to_do(start: Callable[..., Client]) -> None:
    client = start()
    page = client.http.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "No run has reported yet" in page.text


def test_runs_are_shown_with_both_sparsities_and_how_they_were_measured(client: Client, run_id: str) -> None:
    client.register(registration(run_id, name=f"name of {run_id}"))
    client.send(run_id, [observed(1)])
    page = client.http.get("/").text
    row = next(row for row in page.split("<tr") if f"name of {run_id}<" in row)
    assert f'href="/runs/{run_id}"' in row
    assert "95.00 %" in row
    assert "99.00 %" in row
    assert "1 000 of 2 000" in row
    assert "bits, bfloat16" in row
    assert "running" in row
    assert 'href="/metrics"' in page
    assert 'href="/api/runs"' in page


def test_a_long_name_leaves_the_states_of_all_runs_in_sight(client: Client, run_id: str) -> None:
    client.register(registration(run_id, name="x" * 200))
    assert '<table class="runs"' in client.http.get("/").text
    style = client.http.get("/style.css").text
    assert re.search(r"^\.runs tbody th {[^}]*white-space: normal; overflow-wrap: anywhere;", style, re.MULTILINE)


def test_a_run_is_shown_layer_by_layer(client: Client, run_id: str) -> None:
    client.register(registration(run_id))
    client.send(run_id, [observed(1), logged(2, loss=float("nan"))])
    page = client.http.get(f"/runs/{run_id}").text
    assert "cumulative sparsity (bits, bfloat16)" in page
    assert "step sparsity (bits, bfloat16)" in page
    assert "<dt>whole-model cumulative sparsity</dt><dd>97.50 %</dd>" in page
    assert next(row for row in page.split("<tr>") if "embed_tokens" in row).count("not trained") == 2
    row = next(row for row in page.split("<tr>") if "<td>01</td>" in row)
    assert "95.00 %" in row
    assert "99.00 %" in row
    assert f'href="/api/runs/{run_id}"' in page


def test_layers_of_different_stacks_are_shown_apart(client: Client, run_id: str) -> None:
    client.register(registration(run_id, groups=stacked_groups()))
    client.send(run_id, [observed(1)])
    rows = client.http.get(f"/runs/{run_id}").text.split("<tr>")
    (encoder,) = (row for row in rows if "<td>encoder 00</td>" in row)
    (decoder,) = (row for row in rows if "<td>decoder 00</td>" in row)
    assert ">30<" in encoder
    assert ">20<" in decoder


def test_a_loss_that_has_become_nan_is_shown(client: Client, run_id: str) -> None:
    client.register(registration(run_id))
    client.send(run_id, [observed(1), logged(2, loss=float("nan"))])
    assert '<th scope="row">loss</th><td>nan</td>' in client.http.get(f"/runs/{run_id}").text


def test_weights_that_nothing_can_be_said_of_are_named_where_there_are_some(client: Client, run_id: str) -> None:
    client.register(registration(run_id))
    client.send(run_id, [observed(1)])
    assert "Nothing can be said of" not in client.http.get(f"/runs/{run_id}").text
    client.send(run_id, [observed(2, unmeasured=[0, 600, 34])])
    assert "Nothing can be said of 634 weights" in client.http.get(f"/runs/{run_id}").text


def test_the_verdict_stands_on_the_pages_once_there_is_one(client: Client, run_id: str) -> None:
    client.register(registration(run_id))
    client.send(run_id, [observed(1)])
    address = f"/api/v1/runs/{run_id}"
    assert client.http.get(f"{address}/verdict").json() is None
    assert client.http.get(address).json()["verdict"] is None
    reason = "86 % of 1,000 trained weights equal the base (cumulative sparsity, bits in bfloat16)"
    client.send(run_id, [observed(2, verdict=pb.Verdict(kind="sparse", reason=f"{reason} <b>"))])
    expected = {"kind": "sparse", "step": 2, "reason": f"{reason} <b>"}
    assert client.http.get(f"{address}/verdict").json() == client.http.get(address).json()["verdict"] == expected
    assert f"<b>sparse</b> at step 2: {reason} &lt;b&gt;." in client.http.get(f"/runs/{run_id}").text
    (row,) = (row for row in client.http.get("/").text.split("<tr") if f'"/runs/{run_id}"' in row)
    assert "<b>sparse</b>" in row
    assert f">{reason} &lt;b&gt;</span>" in row


def test_no_page_speaks_of_a_bare_sparsity(client: Client, run_id: str) -> None:
    client.register(registration(run_id))
    client.send(run_id, [observed(1)])
    for path in ("/", f"/runs/{run_id}"):
        text = re.sub(r"<[^>]*>", " ", client.http.get(path).text).replace("sparsity-monitor", "")
        # Names of alerts.
        text = re.sub(r"\w+Sparsity\w+", "", text)
        named = re.findall(r"(\w+(?: and step)?) sparsity", text, re.IGNORECASE)
        assert named
        assert {word.lower() for word in named} <= {"cumulative", "step", "cumulative and step"}
        assert len(named) == len(re.findall("sparsity", text, re.IGNORECASE))


def test_what_a_run_sends_is_text_and_never_markup(client: Client, run_id: str) -> None:
    hostile_id = f"{run_id}<script>".replace("/", "")
    client.register(
        registration(
            hostile_id,
            name=HOSTILE,
            model=HOSTILE,
            labels={HOSTILE: HOSTILE},
            base=pb.Base(source=HOSTILE, fingerprint=HOSTILE),
            groups=[pb.Group(module=HOSTILE, weights=1)],
            references=[pb.Reference(name=HOSTILE, weights=[1])],
            stored_dtypes=[HOSTILE],
            library_versions={HOSTILE: HOSTILE},
        )
    )
    client.send(hostile_id, [logged(1, **{HOSTILE: 1.0})])
    overview = client.http.get("/").text
    link = re.search(rf'href="(/runs/{run_id}[^"]*)"', overview)
    assert link is not None
    run = client.http.get(link[1])
    assert run.status_code == 200
    for page in (overview, run.text, client.http.get("/runs/%3Cscript%3E", headers={"Accept": "text/html"}).text):
        assert "<script>" not in page
        assert "&lt;script" in page


def test_the_absolute_link_of_a_run_is_shown_where_it_is_known(start: Callable[..., Client]) -> None:
    client = start(service_url="https://monitor.example/")
    client.register(registration("a run?"))
    link = "https://monitor.example/runs/a%20run%3F"
    assert f'<a href="{link}">{link}</a>' in client.http.get("/runs/a%20run%3F").text


def test_every_alert_has_its_chapter_on_the_page_of_the_runbook(client: Client) -> None:
    answer = client.http.get("/runbook")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    for alert in all_alerts(AlertSettings()):
        link = urlsplit(AlertSettings().runbook_of(alert.name))
        assert link.path == "/runbook"
        chapter = answer.text.split(f'<h2 id="{link.fragment}">{alert.name}</h2>')[1].split("<h2")[0]
        assert f"<p><em>{alert.severity}" in chapter
        assert chapter.count("<li>") == len(alert.actions)
        assert f'<a href="#{link.fragment}">{alert.name}</a>' in answer.text
    assert len(set(re.findall(r' id="([^"]+)"', answer.text))) == answer.text.count(" id=")
    assert '<a href="/runbook">' in client.http.get("/").text


def test_the_page_of_the_runbook_shows_no_markdown(client: Client) -> None:
    page = client.http.get("/runbook").text
    text = re.sub(r"<code>.*?</code>|<[^>]*>", "", page.split("<main>")[1])
    assert re.findall(r"\*|`|\||^#|&lt;!--", text, re.MULTILINE) == []
    assert '<div class="wide"><table>' in page


def test_markup_in_a_runbook_is_text() -> None:
    body = rendered(f"## {HOSTILE}\n\n{HOSTILE} [x](javascript:alert(1)) <b>\n").body
    assert re.findall("<script|<b>|href", body) == []
    assert "&lt;script&gt;" in body


def test_nothing_is_loaded_from_elsewhere(client: Client, run_id: str) -> None:
    client.register(registration(run_id))
    assert re.findall(r"<(?:img|link|script|iframe)[^>]*https?:|<script", client.http.get("/runbook").text) == []
    for path in ("/", f"/runs/{run_id}", "/style.css"):
        assert re.findall(r'https?://|url\(|@import|<script(?! src="/assets/)', client.http.get(path).text) == []
    assert client.http.get("/style.css").headers["content-type"].startswith("text/css")


def test_scripts_are_kept_for_ever_below_an_address_with_their_version(client: Client, run_id: str) -> None:
    client.register(registration(run_id))
    scripts = re.findall('<script src="([^"]*)"', client.http.get(f"/runs/{run_id}").text)
    assert [path.split("/")[-1] for path in scripts] == ["plotly.min.js", "run.js"]
    for path in scripts:
        script = client.http.get(path)
        assert script.headers["content-type"].startswith("text/javascript")
        assert script.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert script.headers["content-encoding"] == "gzip"
        whole = client.http.get(path, headers={"Accept-Encoding": "identity"})
        assert "content-encoding" not in whole.headers
        assert whole.content == script.content
        assert int(script.headers["content-length"]) < len(whole.content) / 2
        again = client.http.get(path, headers={"If-None-Match": script.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    assert client.http.get("/assets/older/run.js").status_code == 404
    assert client.http.get(f"{scripts[0].rpartition('/')[0]}/style.css").status_code == 404


def test_pages_run_scripts_of_the_service_alone_and_only_those_that_have_some(client: Client, run_id: str) -> None:
    client.register(registration(run_id))
    for path, scripted in (("/", True), (f"/runs/{run_id}", True), ("/runbook", False)):
        policy = client.http.get(path).headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert ("script-src 'self'; connect-src 'self';" in policy) is scripted
        assert "script-src" not in policy.replace("script-src 'self';", "")


@pytest.mark.parametrize(("tolerance", "drawn"), [(None, True), (1e-5, False)])
def test_published_figures_are_drawn_only_behind_what_is_measured_as_they_were(
    tolerance: float | None, drawn: bool, client: Client, run_id: str
) -> None:
    criterion = (
        pb.Criterion(bits=pb.Criterion.Bits())
        if tolerance is None
        else pb.Criterion(atol=pb.Criterion.Atol(tolerance=tolerance))
    )
    client.register(registration(run_id, criterion=criterion))
    assert ("arXiv 2511.08567" in client.http.get(f"/runs/{run_id}").text) is drawn


def test_the_thresholds_that_are_drawn_are_those_that_alerts_have(client: Client, run_id: str) -> None:
    client.register(registration(run_id))
    page = client.http.get(f"/runs/{run_id}").text
    settings = AlertSettings()
    for alert, value in (
        ("CumulativeSparsityLow", settings.cumulative_sparsity_warning),
        ("CumulativeSparsityCritical", settings.cumulative_sparsity_critical),
        ("StepSparsityCollapsed", 1 - settings.step_density_floor),
    ):
        assert alert in [each.name for each in all_alerts(settings)]
        assert f'href="/runbook#{alert.lower()}">{alert} below {100 * value:g} %' in page


def test_an_unknown_run_is_not_found(client: Client) -> None:
    response = client.http.get("/runs/<none>", headers={"Accept": "text/html"})
    assert response.status_code == 404
    assert "run &#39;&lt;none&gt;&#39; is not in this store" in response.text
    assert '<a href="/">All runs</a>' in response.text


@pytest.mark.parametrize(
    ("share", "shown"),
    [(None, "not measured"), (1, "100.00 %"), (0, "0.00 %"), (0.99999, "99.999 %"), (0.999999999, "99.9999999 %")],
)
def test_a_sparsity_is_never_rounded_up_to_everything(share: float | None, shown: str) -> None:
    assert percent(share) == shown


def test_numbers_and_times_are_written_for_people() -> None:
    assert count(None) == "not measured"
    assert count(7_615_616_512) == "7 615 616 512"
    assert when(None) == "never"
    assert when(0) == "1970-01-01 00:00:00 UTC"
    assert when(1e300).endswith("s after 1970-01-01 UTC")
