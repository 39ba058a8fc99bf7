"""The errors a caller may want to catch. Each message says what was given, what was expected and what to do."""

from __future__ import annotations


class SparsityMonitorError(Exception):
    """Base class of every error that this package raises on purpose."""


class MissingLibraryError(SparsityMonitorError, ModuleNotFoundError):
    """A library that only training needs is not installed."""


class UnsupportedSystemError(SparsityMonitorError, ImportError):
    """This operating system lacks something that is needed."""


class ConfigurationError(SparsityMonitorError, ValueError):
    """A setting has a value that cannot work."""


class BaseMismatchError(SparsityMonitorError, ValueError):
    """The base weights are not those of the model."""


class MaskMismatchError(SparsityMonitorError, ValueError):
    """A mask does not fit the model, or another mask."""


class MaskFileError(SparsityMonitorError, ValueError):
    """A file is not a mask that this version can read."""


class UnsupportedModelError(SparsityMonitorError, ValueError):
    """The model holds its weights in a way that cannot be measured rightly."""


class CheckpointError(SparsityMonitorError, ValueError):
    """A checkpoint on disk, or on the hub, cannot be read or compared."""


class DeltaError(SparsityMonitorError, ValueError):
    """A delta between two checkpoints cannot be made, read or applied."""


class SpoolError(SparsityMonitorError, OSError):
    """The spool directory cannot be used."""


class DamagedSpoolError(SpoolError):
    """The spool's file is not what was written to it."""


class SpoolInUseError(SpoolError):
    """Another training process has the spool directory."""


class ReportingError(SparsityMonitorError, RuntimeError):
    """The service cannot be reached, or refuses the run."""


def name_some(names: list[str], limit: int = 5) -> str:
    """Join `names` for a message, at most `limit` of them.

    >>> name_some(["a", "b", "c"], limit=2)
    'a, b and 1 more'
    """
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def said_by_system(error: OSError) -> str:
    """Return what an error says, with what to do where it is the operating system's own and not in words.

    >>> said_by_system(FileNotFoundError(2, "No such file or directory", "/nowhere"))
    "'/nowhere' cannot be used: No such file or directory. Give another path, or see who may use this one"
    """
    if type(error).__module__ != "builtins" or error.strerror is None:
        return str(error)
    if error.filename is None:
        return f"the system refused something: {error.strerror}"
    return (
        f"{shown(str(error.filename))} cannot be used: {error.strerror}. Give another path, or see who may use this one"
    )


_SHOWN_CHARACTERS = 80


def shown(value: object) -> str:
    """Return any value for a message, on one line and not too long.

    >>> shown(list(range(100)))
    '[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, …'
    """
    try:
        text = " ".join(repr(value).split())
    except Exception as error:  # noqa: BLE001 (the user's own class fails, and a message about it must not)
        text = f"a {type(value).__name__} whose repr fails with {type(error).__name__}"
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"
