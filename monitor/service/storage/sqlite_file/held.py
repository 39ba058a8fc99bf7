"""The file of a store as the store uses it: its own, under its name, before and after each change."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from monitor.service.errors import ForeignStoreError, StoreError
from monitor.service.storage.sqlite_file.kind import check_kind
from monitor.service.storage.sqlite_file.network import warn_of_network
from monitor.service.storage.sqlite_file.owner import Owner, lock_of
from monitor.service.storage.sqlite_file.place import Key, Place
from monitor.service.storage.sqlite_file.reserve import keep_reserve

# How often to look whether room is to be set aside.
_LOOK_SECONDS = 60.0


class Held(Protocol):
    """What a store has to itself, beside its connection."""

    def opened(self, engine: Engine, touch: Callable[[], None]) -> None:
        """Begin to watch; `touch` changes something in the database, in a transaction of its own."""

    def hold(self, newest: Key | None) -> None:
        """Before a change: make sure that it goes where the next process will look."""

    def confirm(self, shrinks_to: int | None = None) -> None:
        """After a change: make sure that it did. `shrinks_to`: bytes that a file is to have, which gave some back."""

    def save(self) -> None:
        """At the end: leave what would be lost with the process where a person finds it."""

    def announce(self, grpc_address: str, http_address: str) -> None:
        """Let others know where the store is served."""

    def close(self) -> None:
        """Give it back. The connection is to be closed before."""


class HeldFile(Held):
    """The file of a SQLite store.

    Raises, from every method:
        StoreError: nothing may be written, or what was written is not where it belongs.
    """

    def __init__(self, path: Path, schema_table: str) -> None:
        """Take the file, before it is opened.

        Raises:
            ForeignStoreError: something of another program is there.
            StoreInUseError: another process has it.
            OSError: it cannot be looked at, or nothing can be written beside it.
        """
        real = Path(os.path.realpath(path))
        try:
            check_kind(path, schema_table)
        except ForeignStoreError:
            if not lock_of(real).exists():
                raise
            # Of a file that another service is making, what is read meanwhile may be anything.
            owner = Owner(real)
            try:
                check_kind(path, schema_table)
            finally:
                owner.close()
        warn_of_network(path)
        self._path = path
        self._owner = Owner(real)
        self._place = Place(path)

    def opened(self, engine: Engine, touch: Callable[[], None]) -> None:
        self._engine, self._touch = engine, touch
        with self._explained():
            self._remember()
        self._look_at_room()

    def hold(self, newest: Key | None) -> None:
        with self._explained():
            self._stay()
            self._place.check_contents(newest)

    def confirm(self, shrinks_to: int | None = None) -> None:
        with self._explained():
            self._stay()
            self._place.wrote(shrinks_to)
        if time.monotonic() >= self._next_look:
            self._look_at_room()

    def save(self) -> None:
        with self._explained():
            self._place.save(self._engine)

    def announce(self, grpc_address: str, http_address: str) -> None:
        with self._explained():
            self._owner.announce(gRPC=grpc_address, HTTP=http_address)

    def close(self) -> None:
        keep_reserve(self._path)
        with self._explained():
            self._owner.close()

    def _look_at_room(self) -> None:
        keep_reserve(self._path)
        self._next_look = time.monotonic() + _LOOK_SECONDS

    def _stay(self) -> None:
        self._place.check_directory()
        self._owner.keep()
        if self._place.hold(self._engine):
            try:
                self._remember()
            except StoreError:
                # Opened anew, it would not be known for what it was.
                self._place.check_sound()
                raise

    def _remember(self) -> None:
        # The log of a connection is there from its first change on.
        self._touch()
        self._place.remember()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error, SQLAlchemyError) as error:
            raise StoreError(
                f"the store {self._path} cannot be kept: {error}. Nothing is acknowledged meanwhile, and what runs "
                "report waits in their spools"
            ) from error


class HeldByServer(Held):
    """A store in a database server: its connection holds all there is to hold."""

    def opened(self, engine: Engine, touch: Callable[[], None]) -> None:
        """Nothing to watch."""

    def hold(self, newest: Key | None) -> None:
        """Nothing can be elsewhere."""

    def confirm(self, shrinks_to: int | None = None) -> None:
        """Nothing can be elsewhere."""

    def save(self) -> None:
        """Nothing is lost with the process."""

    def announce(self, grpc_address: str, http_address: str) -> None:
        """Others ask the server."""

    def close(self) -> None:
        """Nothing is left."""
