"""The gate: knows the tokens, and lets whoever calls in or says why not. What calls by gRPC or HTTP is let in by it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from monitor.service.access.refusals import Refusals
from monitor.service.access.scopes import Scope, allows
from monitor.service.access.tokens import Token, digest_of, tokens_in
from monitor.service.background import in_background
from monitor.service.errors import (
    AccessSettingsError,
    MissingScopeError,
    NoAccessError,
    StoreError,
    TooManyFailuresError,
)
from monitor.service.times import when

logger = logging.getLogger("monitor.service.access")

# How long a token may still be good that another process has revoked.
_REFRESH_SECONDS = 2.0


class Gate:
    """Open to all until there is a token; from then on closed to whoever shows none, until the service ends.

    Args:
        read: reads the tokens of the store.
        directory: with tokens in files, see `tokens_in`.
    """

    def __init__(self, read: Callable[[], Awaitable[Sequence[Token]]], directory: Path | None) -> None:
        self._read = read
        self._directory = directory
        self._tokens: dict[bytes, Token] = {}
        self._refusals = Refusals()
        self._reading = asyncio.Lock()
        self._readings = 0
        self._trouble = ""

    @property
    def closed(self) -> bool:
        """Whether a token is asked for."""
        return bool(self._tokens) or self._directory is not None

    async def open(self) -> None:
        """Read the tokens for the first time.

        Raises:
            AccessSettingsError: those of the directory cannot be used.
            StoreError: the store failed.
        """
        await self._refresh()

    def watching(self, count_failure: Callable[[], object]) -> AbstractAsyncContextManager[None]:
        """Follow what becomes of the tokens while the context is open."""
        return in_background(
            self._watch,
            "looking for tokens that were made or revoked",
            meanwhile="those that were known last count, also one that has been revoked since",
            count_failure=count_failure,
        )

    async def admit(self, authorization: str | None, scope: Scope, host: str, what: str) -> bytes | None:
        """Let a caller in, and return by what it is known from now on; None where all are let in.

        Args:
            authorization: the header of that name.
            host: who calls.
            what: it calls for, to be logged.

        Raises:
            NoAccessError: it shows no token, or none that is good; TooManyFailuresError, if it did so often.
            MissingScopeError: its token allows something else.
        """
        if not self.closed:
            return None
        digest = digest_of(secret) if (secret := _bearer(authorization)) else None
        if digest is not None and digest not in self._tokens and not self._refusals.are_many(host):
            await self._refresh_if_possible()
        try:
            self.check(digest, scope)
        except NoAccessError as error:
            many = self._refusals.are_many(host)
            self._refusals.note(host, what, str(error))
            if many and not isinstance(error, MissingScopeError):
                raise TooManyFailuresError(
                    f"{error}. There were many such calls from {host}: a token that was made just now is known in some "
                    "seconds"
                ) from None
            raise
        return digest

    def check(self, digest: bytes | None, scope: Scope) -> Token | None:
        """Return the token if it is good, None where all are let in.

        Raises:
            NoAccessError, MissingScopeError: see `admit`.
        """
        if not self.closed:
            return None
        if digest is None:
            raise NoAccessError(f"no token was given, and this needs one with the scope {scope}")
        if (token := self._tokens.get(digest)) is None:
            raise NoAccessError("the token that was given is not known here")
        if token.revoked_at is not None:
            raise NoAccessError(f"the token {token.name!r} was revoked at {when(token.revoked_at)}")
        if not token.is_good(time.time()):
            raise NoAccessError(f"the token {token.name!r} expired at {when(token.expires_at or 0.0)}")
        if not allows(token.scopes, scope):
            raise MissingScopeError(
                f"the token {token.name!r} has the scope {', '.join(sorted(token.scopes))}, and this needs {scope}"
            )
        return token

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_REFRESH_SECONDS)
            await self._refresh_if_possible()

    async def _refresh_if_possible(self) -> None:
        """Read the tokens anew. While they cannot be read, those count that were known last."""
        begun = self._readings
        try:
            async with self._reading:
                # Unless somebody's reading began while this one waited.
                if self._readings == begun:
                    await self._refresh()
            self._trouble = ""
        except (StoreError, AccessSettingsError) as error:
            if self._trouble != str(error):
                self._trouble = str(error)
                logger.warning("tokens cannot be read, and those that were known last count: %s", error)

    async def _refresh(self) -> None:
        self._readings += 1
        found = [*await self._read()]
        if self._directory is not None:
            found += await asyncio.to_thread(tokens_in, self._directory)
        # None is forgotten: a store that lost its tokens does not open to all.
        if found or not self._tokens:
            self._tokens = {token.digest: token for token in found}


def _bearer(authorization: str | None) -> str | None:
    kind, _, secret = (authorization or "").partition(" ")
    return secret.strip() or None if kind.lower() == "bearer" else None
