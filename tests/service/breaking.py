"""Parts of a service that fail as nobody expected."""

from __future__ import annotations

from collections import Counter

import pytest


def break_once(of: type, method: str, monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """Let a method raise RuntimeError when it is first called of each object, and return how often it is, by id.

    Services that other tests share have such objects, too.
    """
    real, calls = getattr(of, method), Counter[int]()

    def breaks_once(self: object, *arguments: object) -> object:
        calls[id(self)] += 1
        if calls[id(self)] == 1:
            raise RuntimeError("broken")
        return real(self, *arguments)

    monkeypatch.setattr(of, method, breaks_once)
    return calls
