"""The overview in a browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.service.messages import finished, observed, registration
from tests.service.running import Client, service_in_thread
from tests.service.web.pages.browsing import in_a_browser, opened, until

HOSTILE = "<img src=x onerror=alert(1)>"
pytestmark = in_a_browser


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Three runs that differ in state, labels, step and sparsity, in the order in which they registered."""
    with service_in_thread(tmp_path_factory.mktemp("overview") / "store.db") as client:
        client.register(registration("sft", name=HOSTILE, labels={"algorithm": "SFT", HOSTILE: "a=b"}))
        client.send("sft", [*(observed(step, changed=[0, 50 * step, 0]) for step in range(1, 10)), finished(10)])
        client.register(registration("grpo", name="by GRPO", labels={"algorithm": "GRPO"}))
        client.send("grpo", [observed(step, changed=[0, step, 0]) for step in range(1, 31)])
        client.register(registration("bare", name="nothing yet", labels={}))
        yield client


def rows(page: Page) -> list[str]:
    """The runs that are in sight, from the top."""
    shown = "[...document.querySelectorAll('.runs tbody tr')].filter(row => !row.hidden).map(row => row.dataset.run)"
    return page.evaluate(shown)  # type: ignore[no-any-return]


def sort_of(page: Page, column: str) -> str | None:
    return page.locator(f"th[data-column={column}]").get_attribute("aria-sort")


def test_runs_are_sorted_with_the_keyboard_and_those_without_a_value_are_last(page: Page, fleet: Client) -> None:
    opened(page, fleet, "/")
    assert rows(page) == ["bare", "grpo", "sft"]
    button = page.get_by_role("button", name="cumulative sparsity")
    button.press("Enter")
    assert (rows(page), sort_of(page, "cumulative")) == (["sft", "grpo", "bare"], "ascending")
    button.press("Enter")
    assert (rows(page), sort_of(page, "cumulative")) == (["grpo", "sft", "bare"], "descending")
    assert page.url.endswith("#sort=-cumulative")
    button.press("Enter")
    assert (rows(page), sort_of(page, "cumulative")) == (["bare", "grpo", "sft"], "none")
    page.get_by_role("button", name="run").press("Enter")
    assert rows(page) == ["sft", "grpo", "bare"]


FOUND = [
    ("search", "GRPO", ["grpo"]),
    ("search", "onerror", ["sft"]),
    ("state", "finished", ["sft"]),
    ("label", "algorithm=GRPO", ["grpo"]),
    ("label", f"{HOSTILE}=a=b", ["sft"]),
]


def test_runs_are_found_and_a_link_finds_the_same(page: Page, fleet: Client) -> None:
    opened(page, fleet, "/")
    for control, value, found in FOUND:
        field = page.locator(f"#{control}")
        field.fill(value) if control == "search" else field.select_option(value)
        assert rows(page) == found
        assert page.locator("#shown").inner_text() == "1 of 3 runs"
        link = page.url
        field.fill("") if control == "search" else field.select_option("")
        assert len(rows(page)) == 3
        page.goto("about:blank")
        page.goto(link)
        until(page, "document.getElementById('live').textContent === 'live'")
        assert (rows(page), field.input_value()) == (found, value)
        field.fill("") if control == "search" else field.select_option("")
    assert page.locator("img[src=x]").count() == 0


def test_runs_that_are_ticked_are_compared(page: Page, fleet: Client) -> None:
    opened(page, fleet, "/")
    compare = page.get_by_role("button", name="Compare")
    page.get_by_label("compare by GRPO").press("Space")
    assert compare.is_disabled()
    page.get_by_label(f"compare {HOSTILE}").press("Space")
    assert page.url.endswith("#ticked=grpo%2Fsft")
    # What is ticked stays so where a search hides it.
    page.locator("#search").fill("GRPO")
    compare.press("Enter")
    page.wait_for_url("**/compare?run=grpo&run=sft")


def test_the_overview_goes_on_with_the_runs_and_leaves_the_focus_where_it_was(page: Page, tmp_path: Path) -> None:
    with service_in_thread(tmp_path / "store.db") as client:
        client.register(registration("first"))
        client.send("first", [observed(step) for step in range(1, 5)])
        opened(page, client, "/#sort=step")
        tick = page.get_by_label("compare a run")
        tick.focus()
        client.register(registration("late", name="late"))
        until(page, "document.querySelectorAll('.runs tbody tr').length === 2")
        client.send("late", [observed(1), observed(2, changed=[0, 500, 400])])
        until(page, "document.querySelector('[data-run=late]').textContent.includes('10.00 %')")
        assert rows(page) == ["late", "first"]
        assert tick.evaluate("each => each === document.activeElement")
        # A page whose service goes away says so to its console.
        page.goto("about:blank")


def test_a_sparkline_goes_from_the_least_to_the_greatest_value(page: Page, fleet: Client) -> None:
    opened(page, fleet, "/")
    curve = page.get_by_role("img", name="cumulative sparsity (bits, bfloat16) from 99.90 % at step 1")
    assert curve.get_attribute("aria-label").endswith("to 97.00 % at step 30, between 97.00 % and 99.90 %")  # type: ignore[union-attr]
    points = [point.split(",") for point in str(curve.locator("polyline").get_attribute("points")).split()]
    assert (points[0], points[-1], len(points)) == (["1.0", "2.0"], ["119.0", "22.0"], 30)
