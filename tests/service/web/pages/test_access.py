"""That nobody is kept out of the pages: what axe-core finds in both themes, and that a phone shows them whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from monitor.wire import monitor_pb2 as pb
from tests.service.messages import finished, logged, observed, registration
from tests.service.running import Client, service_in_thread
from tests.service.web.pages.browsing import in_a_browser, opened, until

THEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
PAGES = {
    "/#sort=step&ticked=grpo": "true",
    "/runs/grpo#group=00%2Fmlp": "document.getElementById('group').data?.[0]?.y.length === 9",
    "/compare?run=grpo&run=sft": "document.getElementById('curves').data?.length === 2",
}
pytestmark = in_a_browser


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Two runs with everything that pages show of some runs only."""
    with service_in_thread(tmp_path_factory.mktemp("access") / "store.db") as client:
        client.register(registration("grpo", name="by GRPO", planned_steps=100))
        verdict = pb.Verdict(kind="sparse", reason="95 % of 1,000 trained weights equal the base")
        client.send("grpo", [observed(step, verdict=verdict) for step in range(1, 9)])
        client.register(registration("grpo", name="by GRPO", attempt=2, resumed_from_step=8))
        client.send("grpo", [observed(1, step=9, unmeasured=[0, 1, 1], verdict=verdict), logged(2, step=9, loss=1)], 2)
        client.register(registration("sft", name="by SFT", visible_dtype="float32"))
        client.send("sft", [observed(1), finished(2, reason="out of memory")])
        yield client


@pytest.mark.parametrize("path", PAGES)
def test_axe_finds_nothing_and_a_phone_shows_all_of_the_width(path: str, page: Page, service: Client) -> None:
    opened(page, service, path)
    until(page, PAGES[path])
    for summary in page.locator("details:not([hidden]) summary").all():
        summary.press("Enter")
    for theme in THEMES:
        page.emulate_media(color_scheme=theme)
        found = Axe().run(page)
        assert found.violations_count == 0, f"{theme}: {found.generate_report()}"
    page.set_viewport_size({"width": 390, "height": 800})
    until(page, "document.documentElement.scrollWidth <= 390")
    found = Axe().run(page)
    assert found.violations_count == 0, f"phone: {found.generate_report()}"


def test_a_phone_shows_charts_in_its_width_with_titles_and_legends_beside_nothing(page: Page, service: Client) -> None:
    """Opened on a phone: what is made for a wide window and then made narrow is laid out again."""
    page.set_viewport_size({"width": 390, "height": 800})
    opened(page, service, "/runs/grpo#group=00%2Fmlp")
    until(page, PAGES["/runs/grpo#group=00%2Fmlp"])
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    boxes = page.evaluate(
        "['.infolayer > [class^=legend]', '.annotation-text-g', '.plot']"
        ".flatMap(each => [...document.querySelectorAll(`#curves ${each}`)])"
        ".map(each => [each.classList[0], each.getBoundingClientRect()]).map(([name, b]) => "
        "({ name, left: b.left, right: b.right, top: b.top, bottom: b.bottom }))"
    )
    above = [box for box in boxes if box["name"].startswith("legend")]
    assert above
    for box in above:
        assert 0 <= box["left"] < box["right"] <= 390
        for other in boxes:
            apart = other["top"] >= box["bottom"] or other["bottom"] <= box["top"]
            assert other is box or apart or other["right"] <= box["left"] or other["left"] >= box["right"], (box, other)


def test_axe_finds_nothing_in_the_runbook(page: Page, service: Client) -> None:
    page.goto(f"http://{service.listening.http_address}/runbook")
    for theme in THEMES:
        page.emulate_media(color_scheme=theme)
        found = Axe().run(page)
        assert found.violations_count == 0, f"{theme}: {found.generate_report()}"


def test_charts_are_printed_on_white_paper_whatever_the_screen_is(page: Page, service: Client) -> None:
    page.emulate_media(color_scheme="dark")
    opened(page, service, "/runs/grpo")
    colour = "document.getElementById('curves').data[0].line.color"
    until(page, f"{colour} === '#3bc9db'")
    page.emulate_media(media="print")
    until(page, f"{colour} === '#0b7285'")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.get_by_role("button", name="All steps").is_visible()
    page.emulate_media(media="screen")
    until(page, f"{colour} === '#3bc9db'")
