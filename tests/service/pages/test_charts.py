"""The page of a run in a browser: Debian's Chromium against a real service."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page

from tests.service.messages import logged, observed, registration
from tests.service.pages.browsing import in_a_browser, opened, until
from tests.service.running import Client, service_in_thread

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


def test_a_link_shows_what_its_sender_saw(page: Page, service: Client) -> None:
    begin(service, "linked")
    opened(page, service, "/runs/linked#from=5&to=9&step=7&group=00%2Fmlp")
    assert shown(page, "curves", "cumulative sparsity")[0] == [5, 6, 7, 8, 9]
    until(page, "document.getElementById('step-said').textContent === 'step 7'")
    until(page, "document.getElementById('group').data?.[0]?.y.length === 20")
    assert page.evaluate("document.getElementById('group').data[0].y[6]") == 1 - 42 / 600
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
