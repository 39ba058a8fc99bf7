"""Settings of a run from environment variables, for trainings that are configured by a file: arguments win."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from typing import TypeVar

from monitor.environment import misspelt, variable
from monitor.errors import ConfigurationError, shown
from monitor.limits import Limits

logger = logging.getLogger(__name__)

Kind = TypeVar("Kind", dict[str, object], list[object])


def settings_from_environment(names: Collection[str], given: Collection[str]) -> dict[str, object]:
    """Return the settings that are not given and have a variable, as what they stand for; warn of misspelt variables.

    Args:
        names: of all settings.
        given: those that are arguments.

    Raises:
        ConfigurationError: a variable cannot be read as its setting.
    """
    # torchrun sets RANK: of the processes that train together one warns.
    if os.environ.get("RANK", "0") == "0":
        _warn_of_misspelt(os.environ, names)
    texts = {name: os.environ.get(variable(name), "") for name in names if name not in given}
    # A variable that is empty is as good as none.
    return {name: _FORMS.get(name, _text)(name, text) for name, text in texts.items() if text.strip()}


def _warn_of_misspelt(environment: Mapping[str, str], names: Collection[str]) -> None:
    limits = [field.name for field in fields(Limits)]
    for name, meant in misspelt(environment, [*names, *limits]).items():
        advice = f"Did you mean {meant}?" if meant else "help(SparsityCallback) and help(monitor.watch) list them."
        logger.warning("sparsity-monitor: the environment variable %s is not known, and not used. %s", name, advice)


def _text(_name: str, text: str) -> str:
    # Numbers and truth values are read by the settings themselves.
    return text


def _text_or_none(_name: str, text: str) -> str | None:
    return None if text.strip().lower() == "none" else text


def _pairs(name: str, text: str) -> Mapping[str, object]:
    """Read a JSON object, or name=value,name=value."""
    if text.lstrip().startswith("{"):
        return _json(name, text, dict)
    pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
    if not all(separator and key.strip() for key, separator, _ in pairs):
        raise ConfigurationError(
            f'{variable(name)} is {shown(text)}; expected name=value,name=value or a JSON object {{"name": "value"}}.'
        )
    return {key.strip(): value.strip() for key, _, value in pairs}


def _numbers(name: str, text: str) -> list[object]:
    """Read a JSON list, or numbers with commas between them."""
    return _json(name, text, list) if text.lstrip().startswith("[") else [part.strip() for part in text.split(",")]


def _patterns(name: str, text: str) -> list[object]:
    """Read a JSON list, or one regular expression, which may hold commas."""
    return _json(name, text, list) if text.lstrip().startswith('["') else [text]


def _json(name: str, text: str, kind: type[Kind]) -> Kind:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ConfigurationError(f"{variable(name)} is {shown(text)}, which is no JSON: {error}.") from error
    if not isinstance(value, kind):
        raise ConfigurationError(f"{variable(name)} is {shown(text)}; expected a JSON {_JSON[kind]}.")
    return value


_JSON = {dict: "object", list: "list"}


_FORMS: Mapping[str, Callable[[str, str], object]] = {
    "target": _text_or_none,
    "on_dense": _text_or_none,
    "labels": _pairs,
    "references": _pairs,
    "tolerances": _numbers,
    "include": _patterns,
    "exclude": _patterns,
    "dense_thresholds": _pairs,
}
