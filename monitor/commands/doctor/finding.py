"""What the doctor found out about one thing, and how findings are printed."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from monitor.terminal import printable

_INDENT = " " * 17


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        check: which.
        state: "ok"; "warn": a training works nevertheless; "fail": nothing arrives until it is changed.
        found: how it is.
        to_do: what to do about it; empty where there is nothing to do.
    """

    check: str
    state: Literal["ok", "warn", "fail"]
    found: str
    to_do: str = ""


def print_findings(findings: Iterable[Finding]) -> bool:
    """Print each as soon as it is known, and return whether none of them fails."""
    width = shutil.get_terminal_size().columns
    seen = []
    for each in findings:
        seen.append(each)
        lines = _wrapped(printable(each.found), width) + _wrapped(printable(each.to_do), width)
        print(
            f"{each.state:5} {each.check:10} {lines[0]}", *(_INDENT + line for line in lines[1:]), sep="\n", flush=True
        )
    print(_summary(seen))
    return are_fine(seen)


def print_as_json(findings: Sequence[Finding]) -> bool:
    """Print them for programs, and return whether none of them fails."""
    fine = are_fine(findings)
    print(json.dumps({"ok": fine, "checks": [asdict(each) for each in findings]}, indent=2))
    return fine


def are_fine(findings: Iterable[Finding]) -> bool:
    """Return whether none of them fails."""
    return all(each.state != "fail" for each in findings)


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, max(20, width - len(_INDENT)), break_on_hyphens=False)


def _summary(findings: Sequence[Finding]) -> str:
    failing, warning = ([each.check for each in findings if each.state == state] for state in ("fail", "warn"))
    if failing:
        return f"not in order: {', '.join(dict.fromkeys(failing))}"
    return f"it works; look at: {', '.join(dict.fromkeys(warning))}" if warning else "everything is in order"
