"""The page that compares runs, in a browser."""

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
PAIR = "/compare?run=grpo&run=sft"
pytestmark = in_a_browser


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Two runs of which one is observed at every second step only, and starts an hour before its first step."""
    with service_in_thread(tmp_path_factory.mktemp("compare") / "store.db") as client:
        client.register(registration("grpo", name="by GRPO"))
        client.send("grpo", [observed(step, changed=[0, step, 0]) for step in range(1, 11)])
        client.register(registration("sft", name=HOSTILE, started_at=1.7e9 - 3600))
        client.send("sft", [observed(step, step=2 * step, changed=[0, 100 * step, 0]) for step in range(1, 4)])
        client.send("sft", [logged(9, step=6, loss=0.5)])
        yield client


def lines(page: Page) -> dict[str, tuple[list[float], list[float | None]]]:
    read = "document.getElementById('curves').data.map(line => [line.name, [line.x, line.y]])"
    return dict(page.evaluate(read))


def drawn(page: Page, number: int) -> None:
    until(page, f"document.getElementById('curves').data?.length === {number}")


def test_runs_are_drawn_over_each_other_with_the_numbers_of_the_interface(page: Page, service: Client) -> None:
    opened(page, service, PAIR)
    read = service.http.get("/api/v1/compare?run=grpo&run=sft").json()["runs"]
    escaped = HOSTILE.replace("<", "&lt;").replace(">", "&gt;")
    expected = {
        name: (run["curve"]["step"], run["curve"]["last"]) for name, run in zip(["by GRPO", escaped], read, strict=True)
    }
    assert {name: tuple(line) for name, line in lines(page).items()} == expected
    assert page.locator("#explained").inner_text() == "cumulative sparsity (bits, bfloat16), in %."
    assert page.locator("img[src=x]").count() == 0


def test_a_link_shows_the_curve_the_axis_and_the_difference_that_its_sender_saw(page: Page, service: Client) -> None:
    opened(page, service, PAIR)
    page.locator("#field").select_option("changed")
    page.locator("#minus").select_option("grpo")
    drawn(page, 1)
    link = page.url
    assert link.endswith("#field=changed&minus=grpo")
    page.goto("about:blank")
    page.goto(link)
    drawn(page, 1)
    ((steps, differences),) = lines(page).values()
    assert (steps, differences) == ([2, 4, 6], [100 - 2, 200 - 4, 300 - 6])
    assert "difference to by GRPO" in page.locator("#explained").inner_text()
    page.locator("#axis").select_option("hours")
    # Its first step was an hour after its start, when the other had ended.
    until(page, "document.getElementById('curves').data[0].x[0] === 1 + 2 / 3600")
    ((_, differences),) = lines(page).values()
    assert differences == [None, None, None]


def test_a_difference_to_a_run_observed_less_often_is_to_its_last_value_by_then(page: Page, service: Client) -> None:
    opened(page, service, f"{PAIR}#field=changed&minus=sft")
    drawn(page, 1)
    ((steps, differences),) = lines(page).values()
    assert steps == list(range(1, 11))
    assert differences == [None, 2 - 100, 3 - 100, 4 - 200, 5 - 200, 6 - 300, None, None, None, None]


def test_a_curve_that_only_some_runs_have_says_so_and_each_chart_is_a_table_too(page: Page, service: Client) -> None:
    opened(page, service, f"{PAIR}#field=metric%3Aloss")
    drawn(page, 1)
    assert page.locator("#explained").inner_text().endswith("1 of the runs has no such curve.")
    page.get_by_text("These curves as a table").press("Enter")
    until(page, "document.querySelector('#numbers tbody tr')")
    rows = page.locator("#numbers tbody tr")
    assert [row.inner_text().split() for row in rows.all()] == [["6", "0.5"]]
    page.locator("#field").select_option("cumulative_sparsity")
    until(page, "document.querySelectorAll('#numbers tbody tr').length === 10")
    assert rows.nth(1).inner_text().split("\t") == ["2", "99.8 %", "90 %"]


def test_what_was_thinned_is_dotted_as_on_the_page_of_the_run(page: Page, tmp_path: Path) -> None:
    store = tmp_path / "store.db"
    with service_in_thread(store) as client:
        for run_id in ("thin", "whole"):
            client.register(registration(run_id))
            client.send(run_id, [*(observed(step) for step in range(1, 41)), finished(41, step=40)])
    thin_runs(f"sqlite:///{store}", ["thin"], keep=12)
    with service_in_thread(store) as client:
        client.register(registration("thin", attempt=2, resumed_from_step=40))
        client.send("thin", [observed(1, step=41), observed(2, step=42)], attempt=2)
        opened(page, client, "/compare?run=thin&run=whole")
        drawn(page, 3)
        dots, thinned, whole = page.evaluate(
            "document.getElementById('curves').data.map(line => "
            "({ x: line.x, y: line.y, dash: line.line.dash, color: line.line.color, group: line.legendgroup }))"
        )
        assert (dots["dash"], dots["x"][0], dots["x"][-2]) == ("dot", 1, 40)
        assert (dots["group"], dots["color"]) == (thinned["group"], thinned["color"])
        known = [x for x, y in zip(thinned["x"], thinned["y"], strict=True) if y is not None]
        assert known[-3:] == [40, 41, 42]
        assert thinned["y"][-3:].count(None) == 0
        assert (whole["x"], None in whole["y"]) == (list(range(1, 41)), False)
        # A page that outlives its service complains to the console.
        page.goto("about:blank")
