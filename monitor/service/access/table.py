"""Tokens in the store. Their table is none of the schema's: older versions leave alone what they do not know."""

from __future__ import annotations

from sqlalchemy import Column, Connection, Double, LargeBinary, MetaData, Table, Text, insert, inspect, select, update

from monitor.service.access.scopes import Scope
from monitor.service.access.tokens import Token

_metadata = MetaData()

_tokens = Table(
    "sparsity_monitor_tokens",
    _metadata,
    Column("digest", LargeBinary, primary_key=True),
    Column("name", Text, nullable=False),
    # Names between spaces.
    Column("scopes", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
    # Kept when it is revoked: a store that had a token does not open to all when the last one goes.
    Column("revoked_at", Double),
)


def read(connection: Connection) -> list[Token]:
    """Return all tokens, the oldest first, revoked ones too."""
    if not inspect(connection).has_table(_tokens.name):
        return []
    # What a newer version allows besides, this one does not know.
    known = set(Scope)
    return [
        Token(
            row.name,
            frozenset(Scope(name) for name in row.scopes.split() if name in known),
            row.digest,
            row.created_at,
            row.expires_at,
            row.revoked_at,
        )
        for row in connection.execute(select(_tokens).order_by(_tokens.c.created_at))
    ]


def add(connection: Connection, token: Token) -> None:
    """Keep a token. The caller commits."""
    _metadata.create_all(connection)
    row = {**vars(token), "scopes": " ".join(sorted(token.scopes))}
    connection.execute(insert(_tokens), row)


def revoke(connection: Connection, digest: bytes, now: float) -> None:
    """Let a token open nothing any more. The caller commits."""
    connection.execute(update(_tokens).where(_tokens.c.digest == digest).values(revoked_at=now))
