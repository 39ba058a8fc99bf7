"""What differs between what is wanted and what is there, in words for people."""

from __future__ import annotations

import re
from typing import Any

_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
_LENGTH = 90


def differences(wanted: Any, present: Any, at: str = "") -> list[str]:
    """Return one line for each value that is wanted and is not there. What is there besides does not matter.

    Grafana adds fields of its own, such as ids and versions, and writes durations in its own way.

    >>> differences({"a": 1, "for": "300s"}, {"a": 2, "for": "5m", "id": 7})
    ['a: 2 → 1']
    """
    if isinstance(wanted, dict) and isinstance(present, dict):
        return [
            line for key, value in wanted.items() for line in differences(value, present.get(key), _below(at, str(key)))
        ]
    if isinstance(wanted, list) and isinstance(present, list) and len(wanted) == len(present):
        pairs = enumerate(zip(wanted, present, strict=True))
        return [line for index, (ours, theirs) in pairs for line in differences(ours, theirs, f"{at}[{index}]")]
    if wanted == present or _empty(wanted, present) or _same_duration(wanted, present):
        return []
    return [f"{at or 'value'}: {_short(present)} → {_short(wanted)}"]


def _below(at: str, key: str) -> str:
    return f"{at}.{key}" if at else key


def _empty(wanted: Any, present: Any) -> bool:
    """Grafana leaves out what is null, empty or false."""
    return present is None and (wanted is False or wanted in (None, "", [], {}))


def _same_duration(wanted: Any, present: Any) -> bool:
    if not (isinstance(wanted, str) and isinstance(present, str)):
        return False
    ours, theirs = seconds(wanted), seconds(present)
    return ours is not None and ours == theirs


def seconds(duration: str) -> int | None:
    """Return the length of a duration such as "5m" or "1h30m", None if it is none.

    >>> seconds("1h30m")
    5400
    """
    match = _DURATION.fullmatch(duration)
    if match is None or not duration:
        return None
    hours, minutes, rest = (int(part or 0) for part in match.groups())
    return 3600 * hours + 60 * minutes + rest


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value).replace("\n", " ")
    return text if len(text) <= _LENGTH else text[: _LENGTH - 1] + "…"
