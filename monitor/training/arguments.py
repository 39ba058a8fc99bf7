"""Lets a class take its settings as arguments, one by one, while they are declared in a class of their own."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from functools import update_wrapper
from textwrap import fill, indent
from typing import Any, Concatenate, ParamSpec, TypeVar

from pydantic import ValidationError

from monitor.errors import ConfigurationError

Parameters = ParamSpec("Parameters")
Settings = TypeVar("Settings")
Owner = TypeVar("Owner")


def takes(
    settings: Callable[Parameters, Settings],
) -> Callable[[Callable[[Owner, Settings], None]], Callable[Concatenate[Owner, Parameters], None]]:
    """Turn `__init__(self, settings)` into one that takes each setting by name, with its type and default.

    Type checkers, editors and `help()` see the parameters of the settings class, and `help()` its explanations.

    Args:
        settings: a pydantic dataclass, whose fields are followed by their explanations.

    Raises:
        ConfigurationError: from the new `__init__`: a setting has a value that cannot work.
        TypeError: from the new `__init__`: a setting is unknown, or a required one is missing.
    """
    signature = inspect.signature(settings)

    def decorate(init: Callable[[Owner, Settings], None]) -> Callable[Concatenate[Owner, Parameters], None]:
        def construct(self: Owner, /, *args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
            try:
                signature.bind(*args, **kwargs)
            except TypeError as error:
                raise TypeError(f"{type(self).__name__}() {error}") from None
            init(self, _checked(settings, *args, **kwargs))

        update_wrapper(construct, init)
        hints = typing.get_type_hints(settings)
        parameters = [p.replace(annotation=hints[p.name]) for p in signature.parameters.values()]
        own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        construct.__signature__ = signature.replace(parameters=[own, *parameters])  # type: ignore[attr-defined]
        construct.__doc__ = f"{inspect.getdoc(init)}\n\nArgs:\n{indent(explanations(settings), '    ')}"
        return construct

    return decorate


def explanations(settings: Any) -> str:
    """Return what the fields of a settings class are for, as the arguments in a docstring, in their order."""
    fields = [(name, settings.__pydantic_fields__[name]) for name in inspect.signature(settings).parameters]
    return "\n".join(fill(f"{name}: {field.description}", 112, subsequent_indent="    ") for name, field in fields)


def _checked(settings: Callable[Parameters, Settings], *args: Parameters.args, **kwargs: Parameters.kwargs) -> Settings:
    try:
        return settings(*args, **kwargs)
    except ValidationError as error:
        raise ConfigurationError("; ".join(_describe(details) for details in error.errors())) from error


def _describe(details: Any) -> str:
    if isinstance(error := details.get("ctx", {}).get("error"), ConfigurationError):
        return str(error)
    where = ".".join(str(part) for part in details["loc"])
    return f"{where} is {details['input']!r}: {details['msg']}"
