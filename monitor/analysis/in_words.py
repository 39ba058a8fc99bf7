"""Errors of the offline commands on their way to a terminal: one sentence, and an exit status that is not 0."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from monitor.errors import SparsityMonitorError
from monitor.terminal import printable_lines


@contextmanager
def errors_in_words() -> Iterator[None]:
    """End the command with what is wrong with its input, with what cannot be written, or with what is not installed."""
    try:
        yield
    except SparsityMonitorError as error:
        sys.exit(printable_lines(str(error)))
    except ModuleNotFoundError as error:
        sys.exit(f'This command needs more libraries, {error.name}: pip install "sparsity-monitor[analysis]"')
    except BrokenPipeError:
        # Whoever reads has had enough: the command line ends without a word.
        raise
    except OSError as error:
        # What is read says so itself, as a CheckpointError does.
        said = f"cannot write the result: {error}. Nothing is left half-written; free space, or write elsewhere."
        sys.exit(printable_lines(said))
