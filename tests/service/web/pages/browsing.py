"""What tests of pages in a browser share: Chromium as Debian has it, against a real service."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.eventually import eventually
from tests.service.running import Client

# The one without windows does the same with two thirds of the work.
CHROMIUM = shutil.which("chromium-headless-shell") or shutil.which("chromium")
in_a_browser = [pytest.mark.skipif(CHROMIUM is None, reason="needs chromium"), pytest.mark.xdist_group("browser")]
"""Marks of a test: all of them go to one process, which starts the browser once."""


# That a browser starts, or a page is loaded, late on a busy machine is no failure.
_PATIENCE_MILLISECONDS = 180_000


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser that starts with the context and ends with it."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"], timeout=_PATIENCE_MILLISECONDS
        )
        yield browser
        browser.close()


@contextmanager
def browsing(browser: Browser) -> Iterator[BrowserContext]:
    """Pages that share what they have loaded."""
    context = browser.new_context(viewport={"width": 1000, "height": 900})
    context.set_default_timeout(_PATIENCE_MILLISECONDS)
    yield context
    context.close()


def until(page: Page, expression: str) -> None:
    """Wait until an expression in JavaScript holds."""
    # The pages' policy forbids playwright's own way of waiting, which evaluates text within them.
    eventually(lambda: bool(page.evaluate(expression)))


def opened(page: Page, service: Client, path: str) -> None:
    """Open a page of the service, and wait until it has read everything once."""
    page.goto(f"http://{service.listening.http_address}{path}")
    until(page, "document.getElementById('live').textContent === 'live'")
