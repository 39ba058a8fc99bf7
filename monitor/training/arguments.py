"""Lets a class or a function take its settings as arguments, one by one, which are declared in a class of their own.

What is not given is taken from the environment.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from functools import update_wrapper
from textwrap import fill, indent
from typing import Any, Concatenate, ParamSpec, TypeVar

from pydantic import ValidationError

from monitor.environment import variable
from monitor.errors import ConfigurationError, shown
from monitor.training.environment import settings_from_environment

Parameters = ParamSpec("Parameters")
Settings = TypeVar("Settings")
First = TypeVar("First")
Result = TypeVar("Result")


def takes(
    settings: Callable[Parameters, Settings],
) -> Callable[[Callable[[First, Settings], Result]], Callable[Concatenate[First, Parameters], Result]]:
    """Turn `__init__(self, settings)`, or `function(first, settings)`, into one that takes each setting by name.

    With its type and default.

    Type checkers, editors and `help()` see the parameters of the settings class, and `help()` its explanations.

    Args:
        settings: a pydantic dataclass, whose fields are followed by their explanations.

    Raises:
        ConfigurationError: from the new function: a setting has a value that cannot work.
        TypeError: from the new function: a setting is unknown, or a required one is missing.
    """
    signature = inspect.signature(settings)

    def decorate(function: Callable[[First, Settings], Result]) -> Callable[Concatenate[First, Parameters], Result]:
        name = function.__name__

        def call(first: First, /, *args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
            try:
                given = signature.bind(*args, **kwargs).arguments
            except TypeError as error:
                raise TypeError(f"{type(first).__name__ if name == '__init__' else name}() {error}") from None
            return function(first, _checked(settings, given, settings_from_environment(signature.parameters, given)))

        update_wrapper(call, function)
        hints = typing.get_type_hints(settings)
        parameters = [p.replace(annotation=hints[p.name]) for p in signature.parameters.values()]
        declared = inspect.signature(function)
        own = next(iter(declared.parameters.values()))
        call.__signature__ = declared.replace(parameters=[own, *parameters])  # type: ignore[attr-defined]
        call.__doc__ = f"{inspect.getdoc(function)}\n\nArgs:\n{indent(explanations(settings), '    ')}"
        return call

    return decorate


def explanations(settings: Any) -> str:
    """Return what the fields of a settings class are for, as the arguments in a docstring, in their order."""
    fields = [(name, settings.__pydantic_fields__[name]) for name in inspect.signature(settings).parameters]
    return "\n".join(fill(f"{name}: {field.description}", 112, subsequent_indent="    ") for name, field in fields)


def _checked(
    settings: Callable[..., Settings], given: Mapping[str, Any], from_environment: Mapping[str, Any]
) -> Settings:
    try:
        return settings(**given, **from_environment)
    except ValidationError as error:
        # Of a value that may be this or that, what it would have to be for the first.
        first = {details["loc"][0]: details for details in reversed(error.errors())}
        messages = (_describe(details, from_environment) for details in reversed(first.values()))
        raise ConfigurationError(" ".join(messages)) from error


def _describe(details: Any, from_environment: Mapping[str, Any]) -> str:
    setting, *inside = details["loc"]
    source = f"environment variable {variable(setting)}: " if setting in from_environment else ""
    if isinstance(error := details.get("ctx", {}).get("error"), ConfigurationError):
        return f"{source}{error}"
    where = ".".join(str(part) for part in [setting, *(part for part in inside if isinstance(part, int))])
    should = details["msg"].removeprefix("Input ")
    return f"{source}{where} is {shown(details['input'])}; it {should}."
