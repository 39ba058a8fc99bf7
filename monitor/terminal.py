"""Text of others on its way to a terminal: names of runs, messages of services."""

from __future__ import annotations

import io
import sys


def printable(text: str) -> str:
    r"""Return text in which nothing acts on a terminal, or on the order of what is read.

    >>> print(printable("a\x1b[2Jb\n\u202ec"))
    a\x1b[2Jb\n\u202ec
    """
    # The escapes are those of Python; a character that it would not print is one that is not seen, or acts.
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def printable_lines(text: str) -> str:
    """Return the same of a message whose lines are meant."""
    return "\n".join(map(printable, text.split("\n")))


def print_anything() -> None:
    """Let standard output escape what its encoding lacks, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
