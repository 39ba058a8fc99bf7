"""Pages while their service is gone for a while."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Browser

from tests.service.messages import observed, registration
from tests.service.running import service_in_thread
from tests.service.web.pages.browsing import browsing, in_a_browser, until
from tests.service.web.pages.relay import relay

pytestmark = in_a_browser


def test_a_page_says_that_the_service_is_gone_and_goes_on_when_it_is_back(browser: Browser, tmp_path: Path) -> None:
    live = "document.getElementById('live').textContent"
    # Its console may say that addresses do not answer.
    with browsing(browser) as context, relay() as public:
        page = context.new_page()
        with service_in_thread(tmp_path / "store.db") as client:
            client.register(registration())
            client.send("run", [observed(1), observed(2)])
            public.target = client.listening.http_address
            page.goto(f"http://{public.address}/runs/run")
            until(page, f"{live} === 'live'")
            public.target = ""
        until(page, f"{live}.startsWith('not live')")
        with service_in_thread(tmp_path / "store.db") as client:
            public.target = client.listening.http_address
            until(page, f"{live} === 'live'")
            # By events again, not only by the page's own asking.
            client.send("run", [observed(3, changed=[0, 300, 200])])
            until(page, "document.getElementById('curves').data[0].y.at(-1) === .5")
