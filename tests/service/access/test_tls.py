"""Encrypted connections: a real gRPC server and a real HTTP server with certificates, dialled as senders do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from monitor.errors import ConfigurationError, ReportingError
from monitor.notebook.interface import Interface
from monitor.service.access.tls import certificates_of
from monitor.service.errors import AccessSettingsError
from monitor.service.settings import ServiceSettings
from monitor.wire.channel import failure
from monitor.wire.credentials import CA, CLIENT_CERTIFICATE, CLIENT_KEY, check_credentials
from tests.service.access.closed import Certificates, list_runs
from tests.service.running import Client, service_in_thread


@pytest.fixture(scope="module")
def encrypted(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    given = {"tls_certificate": certificates.certificate, "tls_key": certificates.key}
    with service_in_thread(tmp_path_factory.mktemp("tls") / "store.db", **given) as client:
        yield client


@pytest.fixture(scope="module")
def mutual(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    given = {"tls_certificate": certificates.certificate, "tls_key": certificates.key, "client_ca": certificates.ca}
    with service_in_thread(tmp_path_factory.mktemp("mutual") / "store.db", **given) as client:
        yield client


def _refused(target: str) -> str:
    with pytest.raises(grpc.RpcError) as refused:
        list_runs(target)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    return failure(target, refused.value)


def test_who_knows_the_signer_is_connected(
    encrypted: Client, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CA, str(certificates.ca))
    list_runs(f"grpcs://{encrypted.listening.grpc_address}")
    read = Interface(f"https://{encrypted.listening.http_address}")
    assert read.get("runs")["total"] == 0


def test_who_does_not_know_the_signer_is_told_what_to_set(encrypted: Client) -> None:
    assert f"is not trusted here: name in {CA}" in _refused(f"grpcs://{encrypted.listening.grpc_address}")
    with pytest.raises(ReportingError, match=f"issuer certificate.*{CA}"):
        Interface(f"https://{encrypted.listening.http_address}").get("runs")


def test_without_encryption_nothing_gets_through(encrypted: Client) -> None:
    _refused(encrypted.listening.grpc_address)
    with pytest.raises(ReportingError):
        Interface(f"http://{encrypted.listening.http_address}").get("runs")


def test_a_service_that_wants_certificates_of_clients_lets_in_who_has_one(
    mutual: Client, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, url = f"grpcs://{mutual.listening.grpc_address}", f"https://{mutual.listening.http_address}"
    monkeypatch.setenv(CA, str(certificates.ca))
    _refused(target)
    with pytest.raises(ReportingError):
        Interface(url).get("runs")
    monkeypatch.setenv(CLIENT_CERTIFICATE, str(certificates.client_certificate))
    with pytest.raises(ConfigurationError, match=f"{CLIENT_KEY} is not set"):
        check_credentials(target)
    monkeypatch.setenv(CLIENT_KEY, str(certificates.client_key))
    check_credentials(target)
    list_runs(target)
    assert Interface(url).get("runs")["total"] == 0


@pytest.mark.parametrize("name", [CA, CLIENT_CERTIFICATE, CLIENT_KEY])
def test_a_file_that_is_not_there_is_named_before_training(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "/nowhere/at.pem")
    with pytest.raises(ConfigurationError, match=rf"^{name} is '/nowhere/at.pem', which cannot be read: No such file"):
        check_credentials("grpcs://localhost:50051")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("certificate",), "--tls-certificate was given without what belongs to it"),
        (("key",), "--tls-key was given without"),
        (("client_ca",), "--client-ca was given without"),
        (("certificate", "other key"), r"--tls-certificate .* cannot be used: .*mismatch"),
        (("certificate", "key", "no client_ca"), "--client-ca .* cannot be used"),
    ],
)
def test_certificates_that_do_not_fit_are_refused_in_words(
    given: tuple[str, ...], words: str, certificates: Certificates, tmp_path: Path
) -> None:
    (tmp_path / "no.pem").write_text("no certificate")
    known: dict[str, dict[str, Any]] = {
        "certificate": {"tls_certificate": certificates.certificate},
        "key": {"tls_key": certificates.key},
        "other key": {"tls_key": certificates.client_key},
        "client_ca": {"client_ca": certificates.ca},
        "no client_ca": {"client_ca": tmp_path / "no.pem"},
    }
    settings: dict[str, Any] = {}
    for each in given:
        settings |= known[each]
    with pytest.raises(AccessSettingsError, match=words):
        _load(ServiceSettings(**settings))


def _load(settings: ServiceSettings) -> None:
    files = certificates_of(settings)
    assert files is not None
    files.load()
