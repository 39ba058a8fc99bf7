"""Tokens in a store of each kind: made, listed and revoked while a service has it, and by the commands."""

from __future__ import annotations

import json
import time

import pytest
import typer.testing

from monitor.service.access.scopes import Scope
from monitor.service.access.tokens import digest_of
from monitor.service.care.token_commands import token_commands
from monitor.service.care.tokens import create, expiry, revoke, tokens
from monitor.service.errors import AccessSettingsError
from monitor.service.storage.store import Store


def test_a_store_keeps_tokens_beside_the_service_that_has_it(store_url: str) -> None:
    first, _ = create(store_url, "first", [Scope.WRITE], None)
    store = Store(store_url)
    try:
        second, _ = create(store_url, "second", [Scope.READ, Scope.WRITE], "2h")
        assert [token.digest for token in tokens(store_url)] == [digest_of(first), digest_of(second)]
        assert revoke(store_url, "first") == [tokens(store_url)[1]]
        revoked, good = tokens(store_url)
        assert revoked.revoked_at is not None
        assert good.scopes == {Scope.READ, Scope.WRITE}
        assert 7100 < (good.expires_at or 0) - time.time() < 7201
        # The name is free again.
        create(store_url, "first", [Scope.WRITE], None)
        with pytest.raises(AccessSettingsError, match="good token called 'first' already"):
            create(store_url, "first", [Scope.WRITE], None)
        with pytest.raises(AccessSettingsError, match="no good token is called 'third': second, first"):
            revoke(store_url, "third")
    finally:
        store.close()


@pytest.mark.parametrize("text", ["", "yesterday", "0d", "2020-01-01", "-3d", "9" * 400])
def test_a_time_that_is_none_or_over_is_refused(text: str) -> None:
    with pytest.raises(AccessSettingsError, match=r"^--expires: .*expected a span such as 12h"):
        expiry(text, now=1.8e9)


def _run(*arguments: str) -> typer.testing.Result:
    return typer.testing.CliRunner().invoke(token_commands, arguments)


def test_the_commands_show_a_token_once_and_otherwise_only_what_is_known_of_it(tmp_path: object) -> None:
    store = ("--store-url", f"sqlite:///{tmp_path}/store.db")
    made = _run("create", "trainers", "--scope", "write", "--expires", "30d", *store)
    secret = made.stdout.strip()
    assert secret.startswith("smt_")
    assert made.stderr.startswith("trainers: good, write, expires at 20")
    listed = _run("list", *store).stdout
    assert listed.splitlines()[0] == "name\tscopes\tstate\tcreated\texpires\trevoked"
    assert listed.splitlines()[1].startswith("trainers\twrite\tgood\t20")
    revoked = _run("revoke", "trainers", *store)
    assert revoked.stdout == "revoked trainers\n"
    assert "nobody is let in before you create one" in revoked.stderr
    (found,) = json.loads(_run("list", "--json", *store).stdout)
    assert (found["name"], found["state"]) == ("trainers", "revoked")
    assert secret not in listed + str(found)
    with open(f"{tmp_path}/store.db", "rb") as file:
        assert secret.encode() not in file.read()
