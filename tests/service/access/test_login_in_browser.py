"""Logging in with Debian's Chromium: the page, its scripts and its events, which carry no header."""

from __future__ import annotations

from tests.eventually import eventually
from tests.service.access.closed import Closed
from tests.service.messages import observed, register_request, registration, stream_of
from tests.service.web.pages.browsing import browsing, chromium, in_a_browser

pytestmark = in_a_browser


def test_a_person_logs_in_sees_the_run_live_and_logs_out(closed: Closed) -> None:
    stub, metadata = closed.client.stub, closed.metadata("write")
    stub.RegisterRun(register_request(registration("live")), timeout=60, metadata=metadata)
    list(stub.Report(iter(stream_of("live", [observed(1, step=1)])), timeout=60, metadata=metadata))
    wrong: list[str] = []
    with chromium() as browser, browsing(browser) as context:
        page = context.new_page()
        page.on("console", lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        address = f"http://{closed.client.listening.http_address}/runs/live"
        page.goto(address)
        assert page.locator("h1").inner_text() == "Log in"
        page.get_by_label("Token").fill(closed.tokens["read"])
        page.get_by_role("button").click()
        page.wait_for_url(address)
        eventually(lambda: bool(page.evaluate("document.getElementById('live').textContent === 'live'")))
        assert wrong == []
        page.get_by_role("button", name="log out").click()
        page.wait_for_url("**/login")
        assert page.locator("h1").inner_text() == "Log in"
        page.goto(address)
        assert page.locator("h1").inner_text() == "Log in"
    # What the page still asked for while it was being left is refused.
    assert [said for said in wrong if "401 (Unauthorized)" not in said] == []
