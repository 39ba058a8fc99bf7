"""Paths and commands in messages: printable, and right when they are pasted into a shell."""

from __future__ import annotations

import os
import shlex
from pathlib import Path


def shown(path: Path | str) -> str:
    r"""Return a path, or other text of the system's, in which every character can be printed and sent.

    >>> print(shown(Path("/out/a b")), shown(Path("/out/\udcff\n")))
    /out/a b /out/\udcff\n
    """
    text = str(path)
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def quoted(path: Path) -> str:
    r"""Return a path as one word of a shell, whatever bytes it has.

    >>> print(quoted(Path("/out/it's")), quoted(Path("/out/\udcff\n")))
    '/out/it'"'"'s' $'/out/\xff\x0a'
    """
    text = str(path)
    if text.isprintable():
        return shlex.quote(text)
    # What bash, zsh and ksh read: each byte that has no printable character by its number.
    return "$'" + "".join(map(_escaped, text)) + "'"


def _escaped(character: str) -> str:
    if character in "\\'":
        return f"\\{character}"
    if character.isprintable():
        return character
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(character))


def push_command(directory: Path, target: str | None) -> str:
    """Return the command that delivers a spool.

    >>> push_command(Path("/tmp/a b"), "localhost:50051")
    "sparsity-monitor push '/tmp/a b' --target localhost:50051"
    """
    return f"sparsity-monitor push {quoted(directory)} --target {target or 'HOST:PORT'}"
