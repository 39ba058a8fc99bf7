"""What somebody sees who has the page of a run open while things break."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from playwright.sync_api import Page

from tests.faults.services import LOST_SOON, running
from tests.faults.training import Training
from tests.report.attempts import uploader_of
from tests.service.web.pages.browsing import in_a_browser, opened, until

pytestmark = in_a_browser

_STATE = "document.querySelector('h1 .state').textContent"
_ABOUT = "document.querySelector('[data-now=about]').textContent"


def test_an_open_page_says_that_a_run_is_lost_and_that_it_is_back_and_how_it_ended(page: Page, tmp_path: Path) -> None:
    with running(tmp_path / "store.db", *LOST_SOON) as service:
        training = Training(tmp_path, service.client.listening.grpc_address)
        training.wait_until_some_arrived(service.client)
        opened(page, service.client, f"/runs/{training.run_id}")
        os.kill(uploader_of(training.reporter), signal.SIGSTOP)
        training.train(30)
        until(page, f"{_STATE} === 'lost'")
        os.kill(uploader_of(training.reporter), signal.SIGCONT)
        until(page, f"{_STATE} === 'running'")
        training.end()
        until(page, f"{_STATE} === 'finished'")
        training.assert_whole(service.client)
        until(page, f"{_ABOUT}.includes('{training.steps} stored, 0 items unsent')")
        # Before the service, whose end it would complain about.
        page.close()
