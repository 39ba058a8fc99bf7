"""Beside a store in a database server that another service has: who that is, and the tokens that it keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from monitor.service.access import table as tokens_table
from monitor.service.access.tokens import Token
from monitor.service.storage.lock import holder
from monitor.service.storage.opening import cannot_open, first_line, waiting_engine

T = TypeVar("T")


class Waiting:
    """Reads beside whoever has the store. One thread uses it.

    Raises, from every method:
        StoreError: the database does not answer.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._engine = waiting_engine(url)

    def holder(self) -> str | None:
        """Return which service has the store, None where none has it."""
        return self._read(holder)

    def tokens(self) -> list[Token]:
        """Return the tokens that are kept in the store."""
        return self._read(tokens_table.read)

    def close(self) -> None:
        """Wait no more."""
        self._engine.dispose()

    def _read(self, what: Callable[[Connection], T]) -> T:
        try:
            with self._engine.connect() as connection:
                return what(connection)
        except SQLAlchemyError as error:
            raise cannot_open(self._url, first_line(error)) from error
