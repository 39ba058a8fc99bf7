"""The page of a run in a browser: Debian's Chromium against a real service."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page

from monitor.service.care.by_hand import thin_runs
from tests.service.messages import finished, logged, observed, registration
from tests.service.running import Client, service_in_thread
from tests.service.web.pages.browsing import in_a_browser, opened, until

HOSTILE = "<img src=x onerror=alert(1)>"
pytestmark = in_a_browser


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with service_in_thread(tmp_path_factory.mktemp("charts") / "store.db") as client:
        yield client


def begin(service: Client, run_id: str, steps: int = 20) -> None:
    service.register(registration(run_id, name=HOSTILE))
    items = []
    for step in range(1, steps + 1):
        items.append(observed(2 * step - 1, step=step, changed=[0, 6 * step, 4 * step]))
        items.append(logged(2 * step, step=step, loss=1 / step, **{HOSTILE: step}))
    service.send(run_id, items)


def shown(page: Page, chart: str, name: str) -> list[list[float]]:
    """Steps and values of a curve that is drawn, by its name in the chart."""
    curve = "([chart, name]) => { const t = document.getElementById(chart).data?.find(t => t.name === name);"
    return page.evaluate(f"{curve} return t ? [t.x, t.y] : [[], []] }}", [chart, name])  # type: ignore[no-any-return]


def test_charts_carry_the_numbers_of_the_interface_and_go_on_with_the_run(page: Page, service: Client) -> None:
    begin(service, "live")
    opened(page, service, "/runs/live")
    steps, values = shown(page, "curves", "cumulative sparsity")
    read = service.http.get("/api/v1/runs/live/history").json()["curves"]["cumulative_sparsity"]
    assert (steps, values) == (read["step"], read["last"])
    assert values[-1] == 1 - 200 / 1000
    # No markup of a run's own becomes an element.
    assert page.locator("img[src=x]").count() == 0
    assert page.locator("h1").inner_text().startswith(HOSTILE)
    bands = page.evaluate("document.getElementById('curves').layout.annotations.map(each => each.text)")
    assert {"published RL", "published SFT"} <= set(bands)
    service.send("live", [observed(41, step=21, changed=[0, 300, 200])])
    until(page, "document.getElementById('curves').data.find(t => t.name === 'cumulative sparsity').y.at(-1) === .5")
    until(page, "document.querySelector('[data-now=summary]').textContent.includes('50.00 %')")


def test_a_run_without_observations_has_a_sentence_and_no_empty_charts(page: Page, service: Client) -> None:
    service.register(registration("waiting"))
    opened(page, service, "/runs/waiting")
    assert page.locator("#no-curves").inner_text() == "No observation yet: the curves begin with the first one."
    assert page.locator(".js-plotly-plot:visible").count() == 0
    service.send("waiting", [observed(1)])
    until(page, "document.getElementById('layers').data?.[0].z.length > 0")
    assert not page.locator("#no-curves").is_visible()
    # Not made while it was out of sight, in a width of its own.
    room, taken = (
        page.evaluate(f"document.querySelector('{each}').getBoundingClientRect().width")
        for each in ("main", "#curves svg")
    )
    assert room - 60 < taken < room


def test_a_link_shows_what_its_sender_saw(page: Page, service: Client) -> None:
    begin(service, "linked")
    opened(page, service, "/runs/linked#from=5&to=9&step=7&group=00%2Fmlp")
    assert shown(page, "curves", "cumulative sparsity")[0] == [5, 6, 7, 8, 9]
    until(page, "document.getElementById('step-said').textContent === 'step 7'")
    until(page, "document.getElementById('group').data?.[0]?.y.length === 5")
    assert page.evaluate("document.getElementById('group').data[0].y[2]") == 1 - 42 / 600
    page.get_by_role("button", name="All steps").press("Enter")
    until(page, "document.getElementById('curves').data.find(t => t.name === 'cumulative sparsity').x.length === 20")


def test_the_slider_and_the_choice_of_a_group_work_with_the_keyboard(page: Page, service: Client) -> None:
    begin(service, "keys")
    opened(page, service, "/runs/keys")
    until(page, "document.getElementById('step').value === '19'")
    page.locator("#step").press("ArrowLeft")
    until(page, "document.getElementById('step-said').textContent === 'step 19'")
    until(page, "document.getElementById('layers').data[0].z[1][1] === 1 - 114 / 600")
    page.locator("#group-choice").select_option("01/mlp")
    until(page, "document.getElementById('group').data?.[0]?.y.at(-1) === 1 - 80 / 400")
    assert page.url.endswith("#step=19&group=01%2Fmlp")


def test_what_could_not_be_drawn_is_said_and_drawn_later_though_nothing_is_new(page: Page, service: Client) -> None:
    begin(service, "failing")
    page.clock.install()
    page.route("**/groups", lambda route: route.fulfill(body="no JSON"), times=1)
    page.goto(f"http://{service.listening.http_address}/runs/failing")
    until(page, "document.getElementById('live').textContent.startsWith('not live: ')")
    page.clock.fast_forward(6000)
    until(page, "document.getElementById('layers').data?.[0]?.z[1][1] === 1 - 120 / 600")
    until(page, "document.getElementById('live').textContent === 'live'")
    page.route("**/groups/history*", lambda route: route.fulfill(body="no JSON"), times=1)
    page.locator("#group-choice").select_option("01/mlp")
    until(page, "document.getElementById('live').textContent.startsWith('not live: ')")


def test_the_step_axis_has_attempts_thresholds_and_the_cost_of_the_monitor(page: Page, service: Client) -> None:
    begin(service, "resumed")
    service.register(registration("resumed", attempt=2, resumed_from_step=15))
    service.send("resumed", [observed(1, step=16)], attempt=2)
    opened(page, service, "/runs/resumed")
    said = "document.getElementById('curves').layout.annotations.map(each => [each.text, each.hovertext])"
    assert ["attempt 2", "attempt 2 resumed from step 15"] in page.evaluate(said)
    lines = "document.getElementById('curves').layout.shapes.filter(each => each.type === 'line')"
    assert page.evaluate(f"{lines}.map(each => each.x0 === each.x1 ? each.x0 : each.y0)") == [0.7, 0.35, 0.975, 15]
    assert shown(page, "curves", "host seconds") == [list(range(1, 17)), [0.001] * 16]
    assert shown(page, "curves", "monitor bytes")[1] == [4000] * 16
    assert "resumed from step 15" in page.locator("[data-now=about]").inner_text()


def test_layers_over_the_steps_are_drawn_and_go_on(page: Page, service: Client) -> None:
    begin(service, "layers")
    opened(page, service, "/runs/layers#layered=step_sparsity")
    until(page, "document.getElementById('over').data?.[0]?.z[1]?.[0] === 1 - 6 / 600")
    page.locator("#layered").select_option("cumulative_sparsity")
    until(page, "document.getElementById('over').data[0].z[2][19] === 1 - 80 / 400")
    service.send("layers", [observed(41, step=21, changed=[0, 300, 200])])
    until(page, "document.getElementById('over').data[0].z[2][20] === .5")
    page.locator("#over-numbers summary").press("Enter")
    until(page, "document.querySelectorAll('#over-numbers tbody tr').length === 21")
    assert page.locator("#over-numbers tbody tr").last.inner_text().split("\t") == ["21", "", "50 %", "50 %"]


def test_a_click_on_a_cell_opens_the_curve_of_its_group(page: Page, service: Client) -> None:
    begin(service, "clicked")
    opened(page, service, "/runs/clicked")
    plot = page.locator("#layers .nsewdrag")
    box = plot.bounding_box()
    assert box is not None
    # Of two columns and three rows, the last cell.
    plot.click(position={"x": box["width"] * 0.75, "y": box["height"] * 5 / 6})
    until(page, "document.getElementById('group').data?.[0]?.y.at(-1) === 1 - 80 / 400")
    assert page.locator("#group-choice").input_value() == "01/mlp"


def test_steps_that_a_pointer_is_dragged_over_are_those_of_all_charts(page: Page, service: Client) -> None:
    begin(service, "dragged")
    opened(page, service, "/runs/dragged#group=00%2Fmlp")
    until(page, "document.getElementById('over').data?.[0]?.x.length === 20")
    box = page.locator("#curves .nsewdrag").first.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.26, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.74, box["y"] + 22, steps=4)
    page.mouse.up()
    ranges = "['curves', 'over', 'group'].map(id => document.getElementById(id).layout.xaxis.range.map(Math.round))"
    until(page, f"new Set({ranges}.map(String)).size === 1 && document.getElementById('over').data[0].x.length < 15")
    (first, last), *_ = page.evaluate(ranges)
    assert 4 <= first < last <= 16
    assert "from=" in page.url
    page.get_by_role("button", name="All steps").press("Enter")
    until(page, "document.getElementById('over').data[0].x.length === 20")


def drawn(page: Page, chart: str, dash: str | None) -> list[list[float | None]]:
    """Steps of the first trace of a chart with such a line."""
    wanted = "undefined" if dash is None else f"'{dash}'"
    return page.evaluate(  # type: ignore[no-any-return]
        f"document.getElementById('{chart}').data.filter(t => t.line?.dash === {wanted}).map(t => t.x)"
    )


def test_no_line_is_drawn_where_observations_never_came(page: Page, service: Client) -> None:
    service.register(registration("gap"))
    steps = [1, 2, 3, 7, 8]
    items = [observed(2 * step - 1, step=step) for step in steps]
    items += [logged(2 * step, step=step, loss=1 / step) for step in range(1, 9)]
    service.send("gap", sorted(items, key=lambda each: each.sequence))
    # Resumed from a step between two observations, which is none.
    service.register(registration("gap", attempt=2, resumed_from_step=10))
    service.send("gap", [observed(1, step=12, stride=2), observed(2, step=13)], attempt=2)
    opened(page, service, "/runs/gap#group=00%2Fmlp")
    steps_shown, values = shown(page, "curves", "cumulative sparsity")
    assert [step for step, value in zip(steps_shown, values, strict=True) if value is not None] == [*steps, 12, 13]
    assert [step for step, value in zip(steps_shown, values, strict=True) if value is None] == [5]
    assert [3, 7, 7] in drawn(page, "curves", "dot")
    # All logs are there.
    assert shown(page, "curves", "loss")[0] == list(range(1, 9))
    until(page, "document.getElementById('group').data?.length === 2")
    assert drawn(page, "group", "dot") == [[3, 7, 7]]


def test_what_retention_thinned_is_dotted_and_what_came_after_is_a_line(page: Page, tmp_path: Path) -> None:
    store = tmp_path / "store.db"
    with service_in_thread(store) as client:
        client.register(registration("thin"))
        client.send("thin", [*(observed(step) for step in range(1, 41)), finished(41, step=40)])
    thin_runs(f"sqlite:///{store}", ["thin"], keep=12)
    with service_in_thread(store) as client:
        client.register(registration("thin", attempt=2, resumed_from_step=40))
        client.send("thin", [observed(1, step=41), observed(2, step=42)], attempt=2)
        opened(page, client, "/runs/thin")
        steps, values = shown(page, "curves", "cumulative sparsity")
        known = [step for step, value in zip(steps, values, strict=True) if value is not None]
        assert known[-3:] == [40, 41, 42]
        assert len(known) < 20
        assert values[-3:].count(None) == 0
        dots = drawn(page, "curves", "dot")[0]
        assert (dots[0], dots[-1]) == (1, 40)
        marked = "document.getElementById('over').layout?.shapes?.map(each => [each.x0, each.x1, each.line.dash])"
        until(page, f"JSON.stringify({marked}) === '[[1,40,\"dot\"]]'")
        # A page that outlives its service complains to the console.
        page.goto("about:blank")
