"""What the pages of the service tell: its version, and what time it is there."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from http.client import HTTPException

from monitor.commands.doctor.finding import Finding
from monitor.notebook.interface import asked, opener
from monitor.service_url import checked_service_url
from monitor.version import __version__

_SECONDS = 10.0
# The answer says whole seconds.
_TOLERATED_SECONDS = 5.0
_BUILD = re.compile(r'^sparsity_monitor_build_info\{[^}]*\bversion="([^"]*)"', re.MULTILINE)


def told_by_pages(url: str) -> Iterator[Finding]:
    """Ask the pages at a URL, which a training does without."""
    try:
        url = checked_service_url(url)
        asked_at = time.time()
        date, _ = _answer(f"{url}/healthz")
        there = parsedate_to_datetime(date).timestamp() + 0.5 - (asked_at + time.time()) / 2
        _, metrics = _answer(f"{url}/metrics")
    except (OSError, HTTPException, ValueError, TypeError) as error:
        said = f"no pages of a service at {url}: {getattr(error, 'reason', error)}. Its version and clock are not known"
        yield Finding("pages", "warn", said, "Say where they are with --service-url; a training does not need them.")
        return
    yield _version(url, metrics)
    yield _clock(there)


def _answer(url: str) -> tuple[str, str]:
    with opener(url).open(asked(url, "text/plain"), timeout=_SECONDS) as answer:
        return str(answer.headers["Date"]), answer.read().decode(errors="replace")


def _version(url: str, metrics: str) -> Finding:
    found = _BUILD.search(metrics)
    if found is None:
        return Finding("version", "warn", f"what is at {url} is no service of sparsity-monitor", "Give --service-url.")
    if found[1] == __version__:
        return Finding("version", "ok", f"{__version__}, here and there")
    return Finding("version", "ok", f"{__version__} here, {found[1]} there; they speak the same protocol")


def _clock(seconds: float) -> Finding:
    if abs(seconds) <= _TOLERATED_SECONDS:
        return Finding("clock", "ok", "the clocks agree, to within a second or so")
    direction = "ahead of" if seconds > 0 else "behind"
    return Finding(
        "clock",
        "warn",
        f"the clock of the service is {abs(seconds):.0f} seconds {direction} this machine's",
        "Times of observations are this machine's: let both keep time by NTP.",
    )
