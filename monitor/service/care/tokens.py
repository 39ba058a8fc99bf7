"""Tokens at a person's request, in the store; also while a service serves it, which soon knows."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from monitor.service.access import table
from monitor.service.access.scopes import Scope
from monitor.service.access.tokens import Token, digest_of, new_secret
from monitor.service.errors import AccessSettingsError, MissingStoreError, shortened
from monitor.service.storage.opening import cannot_open, first_line, open_beside, open_to_read
from monitor.service.storage.store import Store

_SPAN = re.compile(r"(\d{1,4})([mhdw])")
_SECONDS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_NAME = re.compile(r"[\w.@:/+-]{1,100}")


def create(url: str, name: str, scopes: Collection[Scope], expires: str | None) -> tuple[str, Token]:
    """Make a token, and return it with what is kept of it. A store that is not there yet is made.

    Args:
        expires: when, see `expiry`.

    Raises:
        AccessSettingsError: the name or the time cannot be used.
        StoreError: the store cannot be written.
    """
    if not _NAME.fullmatch(name):
        raise AccessSettingsError(
            f"{shortened(name)} was given as a name; expected up to 100 letters, digits and . _ - @ : / +"
        )
    now, secret = time.time(), new_secret()
    token = Token(name, frozenset(scopes), digest_of(secret), now, None if expires is None else expiry(expires, now))
    try:
        with _changing(url) as connection:
            _add(connection, token, now)
    except MissingStoreError:
        Store(url).close()
        with _changing(url) as connection:
            _add(connection, token, now)
    return secret, token


def tokens(url: str) -> list[Token]:
    """Return all tokens of a store, the oldest first.

    Raises:
        StoreError: it cannot be read.
    """
    engine = open_to_read(url)
    try:
        with engine.connect() as connection:
            return table.read(connection)
    except SQLAlchemyError as error:
        raise cannot_open(url, first_line(error)) from error
    finally:
        engine.dispose()


def revoke(url: str, name: str) -> list[Token]:
    """Let the token of that name open nothing any more, and return those that are still good.

    Raises:
        AccessSettingsError: there is none.
        StoreError: the store cannot be written.
    """
    now = time.time()
    with _changing(url) as connection:
        good = _good(connection, now)
        if name not in good:
            known = f": {', '.join(good)}" if good else ", and no token is good"
            raise AccessSettingsError(f"no good token is called {shortened(name)}{known}. Nothing was changed")
        table.revoke(connection, good.pop(name).digest, now)
    return list(good.values())


def expiry(text: str, now: float) -> float:
    """Return when something expires, in seconds since 1970-01-01 UTC.

    >>> expiry("2h", now=0.0), expiry("1970-01-02", now=0.0)
    (7200.0, 86400.0)

    Raises:
        AccessSettingsError: it is neither a time nor a span, or it is over.
    """
    if span := _SPAN.fullmatch(text):
        at = now + int(span[1]) * _SECONDS[span[2]]
    else:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            moment = datetime.fromtimestamp(0, UTC)
        at = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if at <= now:
        raise AccessSettingsError(
            f"--expires: {shortened(text)} was given; expected a span such as 12h, 30d or 8w, or a day to come, such "
            "as 2030-01-31, which begins in UTC"
        )
    return at


def _add(connection: Connection, token: Token, now: float) -> None:
    if token.name in _good(connection, now):
        raise AccessSettingsError(
            f"there is a good token called {token.name!r} already: choose another name, or revoke that one first"
        )
    table.add(connection, token)


def _good(connection: Connection, now: float) -> dict[str, Token]:
    return {token.name: token for token in table.read(connection) if token.is_good(now)}


@contextmanager
def _changing(url: str) -> Iterator[Connection]:
    engine = open_beside(url)
    try:
        with engine.begin() as connection:
            yield connection
    except SQLAlchemyError as error:
        raise cannot_open(url, first_line(error)) from error
    finally:
        engine.dispose()
