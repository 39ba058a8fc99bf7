"""The commands `sparsity-monitor token …`. Each imports what it needs, so that no other command pays for it."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from monitor.service.access.scopes import Scope
from monitor.service.care.commands import DEFAULT_URL, Json, StoreUrl, checked, explained, print_json
from monitor.service.times import when
from monitor.terminal import printable

if TYPE_CHECKING:
    from monitor.service.access.tokens import Token

token_commands = typer.Typer(no_args_is_help=True)

_Name = Annotated[str, typer.Argument(help="What to call it, such as who has it.")]
_Scopes = Annotated[
    list[Scope],
    typer.Option(
        "--scope",
        help="What it allows: write (report), read (pages, API, metrics), metrics alone, administer (everything). "
        "Several for several.",
    ),
]
_Expires = Annotated[
    str | None,
    typer.Option(help="When it expires: in 12h, 30d or 8w, or on a day such as 2030-01-31."),
]


@token_commands.callback()
def options() -> None:
    """Say who may report to a service, read from it and administer it. Without a token, all may who reach it."""


@token_commands.command(epilog="Example: sparsity-monitor token create trainers --scope write --expires 90d")
def create(
    name: _Name,
    scope: _Scopes,
    expires: _Expires = None,
    store_url: StoreUrl = DEFAULT_URL,
    *,
    as_json: Json = False,
) -> None:
    """Make a token and show it, this once: the store keeps only its hash. A service that runs soon knows it."""
    from monitor.service.care.tokens import create

    with explained():
        secret, token = create(checked(store_url), name, scope, expires)
        if as_json:
            print_json(_facts(token) | {"token": secret})
            return
        # Alone on standard output: `sparsity-monitor token create … > FILE`.
        print(secret)
        print(f"{_described(token)}. It is not shown again.", file=sys.stderr)


@token_commands.command("list", epilog="Example: sparsity-monitor token list --json")
def list_tokens(store_url: StoreUrl = DEFAULT_URL, *, as_json: Json = False) -> None:
    """List the tokens that there are and were: for people in a terminal, with tabs between the fields in a pipe."""
    from monitor.service.care.tokens import tokens

    with explained():
        found = tokens(checked(store_url))
    if as_json:
        print_json([_facts(token) for token in found])
        return
    if sys.stdout.isatty():
        for token in found:
            print(printable(_described(token)))
        if not found:
            print("there is no token: all who reach the service may write and read")
        return
    print("\t".join(("name", "scopes", "state", "created", "expires", "revoked")))
    for token in found:
        times = (token.created_at, token.expires_at, token.revoked_at)
        fields = (
            token.name,
            " ".join(sorted(token.scopes)),
            _state(token),
            *("" if each is None else when(each) for each in times),
        )
        print("\t".join(map(printable, fields)))


@token_commands.command(epilog="Example: sparsity-monitor token revoke trainers")
def revoke(name: _Name, store_url: StoreUrl = DEFAULT_URL, *, as_json: Json = False) -> None:
    """Let a token open nothing any more; a service that runs soon knows, and ends streams that were opened with it."""
    from monitor.service.care.tokens import revoke

    with explained():
        left = revoke(checked(store_url), name)
        if as_json:
            print_json({"revoked": name, "good": [_facts(token) for token in left]})
            return
        print(printable(f"revoked {name}"))
        if not left:
            print("no token in the store is good now: nobody is let in before you create one", file=sys.stderr)


def _described(token: Token) -> str:
    expires = "" if token.expires_at is None else f", expires at {when(token.expires_at)}"
    return f"{token.name}: {_state(token)}, {', '.join(sorted(token.scopes))}{expires}"


def _facts(token: Token) -> dict[str, Any]:
    return {
        "name": token.name,
        "scopes": sorted(token.scopes),
        "state": _state(token),
        "created_at": token.created_at,
        "expires_at": token.expires_at,
        "revoked_at": token.revoked_at,
    }


def _state(token: Token) -> str:
    if token.revoked_at is not None:
        return "revoked"
    return "good" if token.is_good(time.time()) else "expired"
