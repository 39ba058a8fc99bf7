"""Shares for people, the same on pages and in a terminal."""

from __future__ import annotations


def percent(share: float | None) -> str:
    """Return a share for people; never "100 %" while a single weight differs.

    >>> percent(0.98765)
    '98.77 %'
    >>> percent(0.999999)
    '99.9999 %'
    """
    if share is None:
        return "not measured"
    decimals = 2
    while decimals < 12 and share < 1 and float(f"{share * 100:.{decimals}f}") == 100:
        decimals += 1
    return f"{share * 100:.{decimals}f} %"
