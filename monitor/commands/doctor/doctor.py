"""Walks the way, and says what is wrong with it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from monitor.commands.doctor.finding import Finding, are_fine, print_as_json, print_findings
from monitor.commands.doctor.pages import told_by_pages
from monitor.commands.doctor.place import place
from monitor.commands.doctor.way import way_to
from monitor.wire.addresses import addresses, each_of

_PORT_OF_PAGES = 8765


def doctor(target: str, directory: Path | None, service_url: str | None, *, as_json: bool) -> None:
    """Print what is found between here and a service, and exit with 1 where something of it fails."""
    findings = _findings(target, directory, service_url)
    fine = print_as_json(list(findings)) if as_json else print_findings(findings)
    if not fine:
        sys.exit(1)


def _findings(target: str, directory: Path | None, service_url: str | None) -> Iterator[Finding]:
    way = []
    for finding in way_to(target):
        way.append(finding)
        yield finding
    if are_fine(way) and (url := service_url or _usual_url(target)):
        yield from told_by_pages(url)
    if directory is not None:
        yield from place(directory, target)


def _usual_url(target: str) -> str | None:
    found = addresses(each_of(target)[0])
    if not found:
        return None
    host = found[0][0]
    return f"http://{f'[{host}]' if ':' in host else host}:{_PORT_OF_PAGES}"
