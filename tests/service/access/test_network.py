"""Where a service listens, and what it wants for that."""

from __future__ import annotations

from pathlib import Path

import pytest

from monitor.service.access.network import check_network, reaches_others
from monitor.service.access.scopes import Scope
from monitor.service.access.tokens import tokens_in
from monitor.service.care.tokens import create
from monitor.service.errors import AccessSettingsError
from monitor.service.settings import ServiceSettings
from tests.service.running import service_in_thread

ELSEWHERE = "0.0.0.0:0"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "0", "::ffff:0.0.0.0"])
def test_all_interfaces_are_more_than_this_machine(host: str) -> None:
    assert reaches_others(host)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "::1", "localhost", "::ffff:127.0.0.1"])
def test_loopback_is_this_machine(host: str) -> None:
    assert not reaches_others(host)


@pytest.mark.parametrize("option", ["grpc_address", "http_address"])
def test_a_service_without_tokens_listens_to_no_network_unless_told_to(option: str, tmp_path: Path) -> None:
    words = rf"^--{option.replace('_', '-')} 0.0.0.0:0 can be reached from other.*--insecure-network$"
    with (
        pytest.raises(AccessSettingsError, match=words),
        service_in_thread(tmp_path / "store.db", **{option: ELSEWHERE}),
    ):
        pass
    check_network(ServiceSettings(**{option: ELSEWHERE}, insecure_network=True), closed=False)  # type: ignore[arg-type]
    create(f"sqlite:///{tmp_path}/store.db", "one", [Scope.READ], None)
    with service_in_thread(tmp_path / "store.db", **{option: ELSEWHERE}) as client:
        assert client.http.get("/healthz").status_code == 200


def test_tokens_come_from_a_mounted_secret_as_well(tmp_path: Path) -> None:
    secrets, good = tmp_path / "secrets", "x" * 32
    secrets.mkdir()
    with pytest.raises(AccessSettingsError, match="there is no token in --tokens-directory"):
        tokens_in(secrets)
    (secrets / "write").write_text("guess me\n")
    with pytest.raises(AccessSettingsError, match="has 8 characters, which somebody may guess") as short:
        tokens_in(secrets)
    assert "guess me" not in str(short.value)
    (secrets / "write").write_text(good + "\n")
    (secrets / "metrics").write_text("y" * 32)
    with service_in_thread(tmp_path / "store.db", tokens_directory=secrets, http_address=ELSEWHERE) as client:
        port = client.listening.http_address.rpartition(":")[2]
        for token, status in (("x" * 32, 403), ("y" * 32, 200), ("z" * 32, 401)):
            answer = client.http.get(f"http://127.0.0.1:{port}/metrics", headers={"Authorization": f"Bearer {token}"})
            assert answer.status_code == status
