"""Curves and shares in one line of text."""

from __future__ import annotations

from collections.abc import Sequence

_HEIGHTS, _HEIGHTS_IN_ASCII = "▁▂▃▄▅▆▇█", "_.-=+*#@"
_EIGHTHS = " ▏▎▍▌▋▊▉"


def sparkline(values: Sequence[float | None], *, ascii_only: bool = False) -> str:
    """Return a curve from its smallest to its largest value; a space where there is none.

    >>> sparkline([0, 1, None, 2])
    '▁▄ █'
    >>> sparkline([3, 3]), sparkline([-1e308, 1e308, 0]), sparkline([0, 1e-320])
    ('▁▁', '▁█▄', '▁█')
    """
    heights = _HEIGHTS_IN_ASCII if ascii_only else _HEIGHTS
    known = [value for value in values if value is not None]
    if not known:
        return ""
    # Halves, and divided first: no difference is too large, and no quotient either.
    low, extent = min(known) / 2, max(known) / 2 - min(known) / 2
    steps = (len(heights) - 1) if extent else 0
    shares = [value if value is None else (value / 2 - low) / (extent or 1.0) for value in values]
    return "".join(" " if share is None else heights[int(share * steps)] for share in shares)


def bar(share: float, width: int, *, ascii_only: bool = False) -> str:
    """Return a share from 0 to 1 of `width` characters; what is more than nothing is seen.

    >>> bar(0.5, 5), bar(0.0, 5), bar(1e-9, 5), bar(0.5, 4, ascii_only=True)
    ('██▌', '', '▏', '##')
    """
    if ascii_only:
        return "#" * max(share > 0, round(share * width))
    eighths = max(share > 0, round(share * width * 8))
    return ("█" * (eighths // 8) + _EIGHTHS[eighths % 8]).rstrip()
