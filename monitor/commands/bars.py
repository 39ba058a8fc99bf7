"""Curves and shares in one line of text."""

from __future__ import annotations

from collections.abc import Sequence

_HEIGHTS, _HEIGHTS_IN_ASCII = "▁▂▃▄▅▆▇█", "_.-=+*#@"
_EIGHTHS = " ▏▎▍▌▋▊▉"


def sparkline(values: Sequence[float | None], *, ascii_only: bool = False) -> str:
    """Return a curve from its smallest to its largest value; a space where there is none.

    >>> sparkline([0, 1, None, 2])
    '▁▄ █'
    >>> sparkline([3, 3])
    '▁▁'
    """
    heights = _HEIGHTS_IN_ASCII if ascii_only else _HEIGHTS
    known = [value for value in values if value is not None]
    if not known:
        return ""
    low, extent = min(known), max(known) - min(known)
    scale = (len(heights) - 1) / extent if extent else 0.0
    return "".join(" " if value is None else heights[int((value - low) * scale)] for value in values)


def bar(share: float, width: int, *, ascii_only: bool = False) -> str:
    """Return a share from 0 to 1 of `width` characters; what is more than nothing is seen.

    >>> bar(0.5, 5), bar(0.0, 5), bar(1e-9, 5), bar(0.5, 4, ascii_only=True)
    ('██▌', '', '▏', '##')
    """
    if ascii_only:
        return "#" * max(share > 0, round(share * width))
    eighths = max(share > 0, round(share * width * 8))
    return ("█" * (eighths // 8) + _EIGHTHS[eighths % 8]).rstrip()
