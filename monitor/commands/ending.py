"""How a command ends: its exit status, and what is said where it does not end well.

0: done. 1: something failed, and a sentence on standard error says what and what to do. 2: the command line is not one
that the command takes. 130: Ctrl-C. 141: whoever read the output had enough. Works without typer, as `push` does.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from monitor.errors import said_by_system
from monitor.terminal import printable_lines

IN_WORDS = (
    "Exit status: 0 done, as is a service that Ctrl-C stops; 1 failed, and a sentence says why; 2 no such command or "
    "option; 130 ended by Ctrl-C; 141 whoever read the output had enough."
)
"""For those who read the help."""

FAILED = 1
INTERRUPTED = 130
READER_GONE = 141
"""As of a shell that sees a program end by SIGPIPE."""


class Ending:
    """The end of one command.

    Attributes:
        debug: show where an error comes from, as Python does.
    """

    def __init__(self) -> None:
        self.debug = False

    @contextmanager
    def clear(self) -> Iterator[None]:
        """End this process with what a command raises in words, and with the exit status that belongs to it."""
        try:
            yield
            _flush()
        except KeyboardInterrupt as interrupted:
            self._end(interrupted, INTERRUPTED)
        except SystemExit as end:
            self._end(end, _status(end))
        except OSError as error:
            self._end(
                error, READER_GONE if _is_broken_pipe(error) else self._say(printable_lines(said_by_system(error)))
            )
        except Exception as error:  # noqa: BLE001 (whatever it is, its traceback tells a user nothing)
            self._end(error, self._say(_unexpected(error, debug=self.debug)))

    def _say(self, text: str) -> int:
        print(text, file=sys.stderr)
        return FAILED

    def _end(self, error: BaseException, status: int | str) -> None:
        if self.debug and status not in (0, READER_GONE):
            traceback.print_exception(error)
        if isinstance(status, str):
            status = self._say(status)
        try:
            _flush()
        except OSError as unwritten:
            status = status or (READER_GONE if _is_broken_pipe(unwritten) else self._say(str(unwritten)))
        _let_go_of_what_nobody_reads()
        sys.exit(status)


def _status(end: SystemExit) -> int | str:
    """Return the exit status, or what there is to say; typer and click hide what they ended for."""
    causes = list(_causes(end))
    if any(isinstance(each, KeyboardInterrupt) for each in causes):
        return INTERRUPTED
    # Some commands say in words whatever the system refuses them, and take this for it.
    at = causes if end.code == FAILED else causes[1:2]
    if end.code and any(map(_is_broken_pipe, at)):
        return READER_GONE
    return end.code if isinstance(end.code, str) else end.code or 0


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_broken_pipe(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno == errno.EPIPE


def _unexpected(error: Exception, *, debug: bool) -> str:
    said = printable_lines(f"{type(error).__name__}: {error}".removesuffix(": "))
    hint = "" if debug else " `sparsity-monitor --debug …` shows where it comes from"
    return f"an error that should not happen: {said}. It is a mistake of this program:{hint}"


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        # Absent where a process starts with closed descriptors.
        if stream is None:
            continue
        try:
            stream.flush()
        except OSError as error:
            if _is_broken_pipe(error):
                raise
            raise OSError(f"cannot write the output: {error.strerror}") from error


def _let_go_of_what_nobody_reads() -> None:
    """Let Python end without a word about a stream that it cannot flush."""
    for stream in filter(None, (sys.__stdout__, sys.__stderr__)):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
