from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from monitor.environment import CREDENTIALS, variable
from monitor.service.access import gate, renewal
from monitor.wire.credentials import INSECURE_NETWORK
from tests.service.access.closed import Certificates, Closed, closed_service, make_certificates


@pytest.fixture(autouse=True)
def _no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*map(variable, CREDENTIALS), INSECURE_NETWORK):
        if name in os.environ:
            monkeypatch.delenv(name)


@pytest.fixture(scope="session", autouse=True)
def _soon() -> Iterator[None]:
    """Services look for new tokens and certificates far more often, so that tests need not wait for it."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(gate, "_REFRESH_SECONDS", 0.1)
        patched.setattr(renewal, "_LOOK_SECONDS", 0.1)
        yield


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Closed]:
    with closed_service(tmp_path_factory.mktemp("closed")) as service:
        yield service


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))
