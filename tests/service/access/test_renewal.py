"""Certificates that are replaced under a running service and a running sender, as cert-manager and certbot do."""

from __future__ import annotations

import logging
import re
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest

from monitor.errors import ReportingError
from monitor.notebook.interface import Interface
from monitor.report.reporter import Reporter
from monitor.service import background
from monitor.service.access import renewal
from monitor.service.access.expiry import expiry_of
from monitor.service.access.renewal import ServedCertificates
from monitor.service.access.tls import Certificates as Files
from monitor.wire.channel import open_channel
from monitor.wire.credentials import CA, CLIENT_CERTIFICATE, CLIENT_KEY
from monitor.wire.monitor_pb2 import ListRunsRequest
from monitor.wire.monitor_pb2_grpc import MonitorServiceStub
from tests.eventually import eventually
from tests.report.attempts import ObservedModel, report_some, spooled
from tests.service.access.closed import Certificates, list_runs, make_certificates, sign
from tests.service.breaking import break_once
from tests.service.running import Client, service_in_thread

_DAY = 86400


def _replace(served: Path, new: Path) -> None:
    """Put a certificate and its key in the place of others, each at once, as renewing programs do."""
    for suffix in (".pem", ".key"):
        beside = served.with_suffix(f"{suffix}.new")
        beside.write_bytes(new.with_suffix(suffix).read_bytes())
        beside.replace(served.with_suffix(suffix))


def _shown_at(address: str, *protocols: str) -> str:
    """The certificate that a new connection is shown."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(list(protocols))
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=60) as plain, context.wrap_socket(plain) as connection:
        shown = connection.getpeercert(binary_form=True)
    assert shown is not None
    return ssl.DER_cert_to_PEM_cert(shown)


def _serves(client: Client, certificate: Path) -> bool:
    shown = _shown_at(client.listening.grpc_address, "h2"), _shown_at(client.listening.http_address, "http/1.1")
    return shown == (certificate.read_text(), certificate.read_text())


@pytest.fixture
def files(certificates: Certificates, tmp_path: Path) -> Files:
    served = tmp_path / "served.pem"
    _replace(served, certificates.certificate)
    return Files(served, served.with_suffix(".key"), None)


@contextmanager
def _service(files: Files, **settings: Any) -> Iterator[Client]:
    given = {"tls_certificate": files.certificate, "tls_key": files.key, **settings}
    with service_in_thread(files.certificate.with_name("store.db"), **given) as client:
        yield client


def test_a_new_certificate_is_served_without_a_restart_and_open_connections_stay(
    certificates: Certificates, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CA, str(certificates.ca))
    new = sign(certificates.ca, files.certificate.with_name("new.pem"), days=90)
    with _service(files) as client, open_channel(f"grpcs://{client.listening.grpc_address}") as before:
        MonitorServiceStub(before).ListRuns(ListRunsRequest(), timeout=60)
        assert _serves(client, files.certificate)
        _replace(files.certificate, new)
        eventually(lambda: _serves(client, new))
        MonitorServiceStub(before).ListRuns(ListRunsRequest(), timeout=60)
        list_runs(f"grpcs://{client.listening.grpc_address}")
        reader = Interface(f"https://{client.listening.http_address}")
        assert reader.get("runs")["total"] == 0
        shown = _metric(client, certificates.ca, "certificate_expires_timestamp_seconds")
        assert shown == _told_by_openssl(new) == pytest.approx(time.time() + 90 * _DAY, abs=3600)


def _metric(client: Client, ca: Path, name: str) -> float:
    with socket.create_connection(client.listening.http_address.rsplit(":", 1), timeout=60) as plain:  # type: ignore[arg-type]
        context = ssl.create_default_context(cafile=ca)
        with context.wrap_socket(plain, server_hostname="localhost") as connection:
            connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            text = connection.makefile("rb").read().decode()
    (found,) = re.findall(rf"^sparsity_monitor_{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(found)


def _told_by_openssl(certificate: Path) -> float:
    command = ["openssl", "x509", "-noout", "-enddate", "-dateopt", "iso_8601", "-in", certificate]
    told = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    return datetime.strptime(told.strip(), "notAfter=%Y-%m-%d %H:%M:%SZ").replace(tzinfo=UTC).timestamp()


def test_clients_of_a_new_signer_are_let_in_and_those_of_the_old_one_no_more(
    certificates: Certificates, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_certificates(tmp_path / "other")
    monkeypatch.setenv(CA, str(certificates.ca))
    (tmp_path / "ca.pem").write_bytes(certificates.ca.read_bytes())

    def lets_in(client: Client, of: Certificates) -> tuple[bool, bool]:
        monkeypatch.setenv(CLIENT_CERTIFICATE, str(of.client_certificate))
        monkeypatch.setenv(CLIENT_KEY, str(of.client_key))
        let_in = []
        for call in (
            lambda: list_runs(f"grpcs://{client.listening.grpc_address}"),
            lambda: Interface(f"https://{client.listening.http_address}").get("runs"),
        ):
            try:
                call()
                let_in.append(True)
            except (grpc.RpcError, ReportingError):
                let_in.append(False)
        return let_in[0], let_in[1]

    with _service(files, client_ca=tmp_path / "ca.pem") as client:
        assert lets_in(client, certificates) == (True, True)
        assert lets_in(client, other) == (False, False)
        (tmp_path / "new").write_bytes(other.ca.read_bytes())
        (tmp_path / "new").replace(tmp_path / "ca.pem")
        eventually(lambda: lets_in(client, other) == (True, True))
        assert lets_in(client, certificates) == (False, False)


def test_an_error_of_the_service_ends_no_renewal(
    files: Files, certificates: Certificates, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(background, "_AGAIN_SECONDS", 0.01)
    looks = break_once(ServedCertificates, "look", monkeypatch)
    with _service(files) as client:
        name = 'background_errors_total{work="certificates"}'
        eventually(lambda: _metric(client, certificates.ca, name) == 1)
        eventually(lambda: min(looks.values()) > 1)
    assert "the one that was read last stays in use until it expires, and then nobody connects" in caplog.text


@pytest.mark.parametrize("fault", ["of another key", "no PEM", "not there"])
def test_a_pair_that_cannot_be_used_keeps_the_old_one_and_is_said_once(
    fault: str, certificates: Certificates, files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    served = ServedCertificates(files, lambda _: None)
    before = served._served
    match fault:
        case "of another key":
            files.certificate.write_bytes(certificates.client_certificate.read_bytes())
        case "no PEM":
            files.key.write_text("no key")
        case "not there":
            files.certificate.unlink()
    with caplog.at_level(logging.INFO, "monitor.service.access"):
        caplog.clear()
        served.look()
        assert not [text for text in caplog.messages if "stays in use" in text]
        for _ in range(5):
            served.look()
        (said,) = [text for text in caplog.messages if "stays in use" in text]
        assert str(files.certificate) in said
        assert "expires at" in said
        assert served._served is before
        _replace(files.certificate, certificates.client_certificate)
        served.look()
    assert served._served.contents.certificate == certificates.client_certificate.read_bytes()
    assert any(text.startswith(f"new certificate in {files.certificate}") for text in caplog.messages)


def test_a_certificate_that_nobody_renews_is_warned_of_two_weeks_before_and_once_a_day(
    certificates: Certificates, files: Files, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    expires: list[float] = []
    served = ServedCertificates(files, expires.append)

    def warnings() -> int:
        caplog.clear()
        served.look()
        return sum("from then on nobody connects" in text for text in caplog.messages)

    assert (warnings(), warnings()) == (1, 0)
    monkeypatch.setattr(renewal, "_DAY_SECONDS", 0.0)
    _replace(files.certificate, sign(certificates.ca, files.certificate.with_name("near.pem"), days=13))
    assert (warnings(), warnings()) == (1, 1)
    _replace(files.certificate, sign(certificates.ca, files.certificate.with_name("far.pem"), days=15))
    assert warnings() == 0
    assert expires == pytest.approx([time.time() + days * _DAY for days in (2, 13, 15)], abs=3600)


@pytest.mark.parametrize("days", [1, 8000, 10000, 40000])
def test_expiry_is_what_openssl_says(days: int, certificates: Certificates, tmp_path: Path) -> None:
    near, far = (
        sign(certificates.ca, tmp_path / "near.pem", days),
        sign(certificates.ca, tmp_path / "far.pem", 2 * days),
    )
    chain = far.read_bytes() + near.read_bytes()
    assert expiry_of(near.read_bytes()) == expiry_of(chain) == _told_by_openssl(near)


def test_a_sender_shows_its_new_certificate_when_it_connects_again(
    certificates: Certificates, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown, observed = tmp_path / "client.pem", ObservedModel()
    _replace(shown, make_certificates(tmp_path / "other").client_certificate)
    monkeypatch.setenv(CA, str(certificates.ca))
    monkeypatch.setenv(CLIENT_CERTIFICATE, str(shown))
    monkeypatch.setenv(CLIENT_KEY, str(shown.with_suffix(".key")))
    with _service(files, client_ca=certificates.ca) as client:
        reporter = Reporter(observed.registration(), tmp_path / "run", f"grpcs://{client.listening.grpc_address}")
        report_some(reporter, observed, 1)
        eventually(lambda: spooled(reporter).problem != "")
        assert spooled(reporter).unsent == 1
        _replace(shown, certificates.client_certificate)
        eventually(lambda: spooled(reporter).unsent == 0)
        reporter.finish(1)
        assert reporter.close(timeout=60)
