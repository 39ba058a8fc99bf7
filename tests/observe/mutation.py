"""Faults put into the code under test, to see that a test finds them."""

from __future__ import annotations

import inspect
import sys
import textwrap
from typing import Any

import pytest


def mutate(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, old: str, new: str) -> None:
    """Put a function in place that lacks something."""
    function = getattr(owner, name)
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(old) == 1, f"{name} has changed: say here what is to be taken out of it now"
    code = compile(source.replace(old, new), name, "exec", annotations.compiler_flag, dont_inherit=True)
    made: dict[str, Any] = {}
    exec(code, sys.modules[function.__module__].__dict__, made)
    for holder in (owner, *(module for module in list(sys.modules.values()) if vars(module).get(name) is function)):
        monkeypatch.setattr(holder, name, made[name])
