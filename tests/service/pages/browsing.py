"""What tests of pages in a browser share: Debian's Chromium against a real service."""

from __future__ import annotations

import shutil

import pytest
from playwright.sync_api import Page

from tests.eventually import eventually
from tests.service.running import Client

CHROMIUM = shutil.which("chromium")
in_a_browser = [pytest.mark.skipif(CHROMIUM is None, reason="needs chromium"), pytest.mark.xdist_group("browser")]
"""Marks of a test: all of them go to one process, which starts the browser once."""


def until(page: Page, expression: str) -> None:
    """Wait until an expression in JavaScript holds."""
    # The pages' policy forbids playwright's own way of waiting, which evaluates text within them.
    eventually(lambda: bool(page.evaluate(expression)))


def opened(page: Page, service: Client, path: str) -> None:
    """Open a page of the service, and wait until it has read everything once."""
    page.goto(f"http://{service.listening.http_address}{path}")
    until(page, "document.getElementById('live').textContent === 'live'")
