"""Where results are written: looked at before the work, not after it. Nothing but an earlier result is replaced."""

from __future__ import annotations

import os
from pathlib import Path

from monitor.errors import ConfigurationError
from monitor.observe.masks.file import is_mask, safetensors_metadata

_SAFETENSORS = ".safetensors"


def check_writable(what: str, path: Path) -> None:
    """Accept a file that can be written, whether it is there or not.

    Args:
        what: what it was given as, such as "--output".
        path: the file.

    Raises:
        ConfigurationError: it is a directory, or in none that can be written to.
    """
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise ConfigurationError(
            f"{what} is {str(path)!r}, which cannot be written; expected a file in a directory that is there and can "
            "be written to."
        )


def check_new(what: str, path: Path) -> None:
    """Accept a file that can be written, and is not there. Arguments and errors as of `check_writable`."""
    check_writable(what, path)
    if os.path.lexists(path):
        raise _kept(what, path, "which is there already")


def check_report(what: str, path: Path) -> None:
    """Accept a report that can be written: no checkpoint has a file that ends in .html. As `check_writable`."""
    if path.suffix != ".html":
        raise ConfigurationError(f"{what} is {str(path)!r}; expected a name that ends in .html, for the report.")
    check_writable(what, path)


def check_mask(what: str, path: Path) -> None:
    """Accept a mask that can be written, in the place of a mask at most. As `check_writable`."""
    if path.suffix != _SAFETENSORS:
        raise ConfigurationError(f"{str(path)!r} would be a mask file; expected a name that ends in .safetensors.")
    check_writable(what, path)
    if os.path.lexists(path) and not is_mask(path):
        raise _kept(what, path, "which is there already, and is no mask")


def check_printed(what: str, path: Path) -> None:
    """Accept a report that can be written: as .html, or new as .pdf or .png. As `check_writable`."""
    if path.suffix not in (".html", ".pdf", ".png"):
        raise ConfigurationError(f"{what} is {str(path)!r}; expected a name that ends in .html, .pdf or .png.")
    if path.suffix == ".html":
        check_writable(what, path)
    else:
        # What it is of, such a file does not say.
        check_new(what, path)


def check_of_format(what: str, path: Path, written_as: str) -> None:
    """Accept a safetensors file that can be written, in the place of one of a format at most. As `check_writable`.

    Args:
        written_as: what files of the format say in their metadata as "format".
    """
    if path.suffix != _SAFETENSORS:
        raise ConfigurationError(f"{what} is {str(path)!r}; expected a name that ends in .safetensors.")
    check_writable(what, path)
    if os.path.lexists(path) and safetensors_metadata(path).get("format") != written_as:
        raise _kept(what, path, f"which is there already, and is no file of {written_as}")


def _kept(what: str, path: Path, why: str) -> ConfigurationError:
    return ConfigurationError(f"{what} is {str(path)!r}, {why}; it is kept as it is. Give another name.")
