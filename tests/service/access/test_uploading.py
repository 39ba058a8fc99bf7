"""What a training is not to notice: a token that is wrong, missing, or made good again while it runs."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from monitor.commands.doctor.way import way_to
from monitor.errors import ConfigurationError, ReportingError
from monitor.report.push import push
from monitor.report.reporter import Reporter
from monitor.report.target import check_target
from monitor.wire.credentials import INSECURE_NETWORK, TOKEN, TOKEN_FILE, call_metadata
from tests.eventually import eventually
from tests.report.attempts import ObservedModel, report_some, spooled, uploader_of
from tests.service.access.closed import UNKNOWN, Closed


def test_a_token_that_is_made_good_while_training_delivers_all_and_is_found_nowhere(
    closed: Closed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    token_file, directory, observed = tmp_path / "token", tmp_path / "run", ObservedModel()
    token_file.write_text(closed.tokens[UNKNOWN] + "\n")
    monkeypatch.setenv(TOKEN_FILE, str(token_file))
    target = closed.client.listening.grpc_address
    with caplog.at_level(logging.WARNING):
        reporter = Reporter(observed.registration(), directory, target)
        report_some(reporter, observed, 1)
        eventually(lambda: spooled(reporter).problem != "")
        told = spooled(reporter)
        assert told.problem.startswith(f"the service at {target} does not let this in: the token that was given is not")
        assert f"file that {TOKEN_FILE} names" in told.problem
        assert not told.refused
        assert (told.unsent, told.dropped) == (1, 0)
        # What the uploader says is logged when the next observation is written.
        report_some(reporter, observed, 1)
        eventually(lambda: "does not let this in" in "".join(caplog.messages))
        command = Path(f"/proc/{uploader_of(reporter)}/cmdline").read_bytes()
        (tmp_path / "new").write_text(closed.tokens["write"] + "\n")
        (tmp_path / "new").replace(token_file)
        eventually(lambda: spooled(reporter).problem == "")
        report_some(reporter, observed, 1)
        reporter.finish(3)
        assert reporter.close(timeout=60)
    read = closed.client.http.get(f"/api/runs/{reporter.key.run_id}/history", headers=closed.header("read")).json()
    assert [each["step"] for each in read["observations"]] == [1, 2, 3]
    said = [message for message in caplog.messages if "does not let this in" in message]
    assert len(said) == 1
    written = b"".join(path.read_bytes() for path in directory.rglob("*") if path.is_file())
    assert b"does not let this in" in written
    for secret in closed.tokens.values():
        assert secret.encode() not in command + written + "".join(caplog.messages).encode()


def test_who_pushes_with_a_wrong_token_is_told_at_once_and_keeps_everything(
    closed: Closed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    observed, target = ObservedModel(), closed.client.listening.grpc_address
    reporter = Reporter(observed.registration(), tmp_path, None)
    report_some(reporter, observed, 1)
    reporter.finish(1)
    reporter.close(timeout=0)
    # Far longer than this test may last.
    with pytest.raises(ReportingError, match=r"stays in the spool.*no token was given"):
        push(tmp_path, target, patience_seconds=3600)
    monkeypatch.setenv(TOKEN, closed.tokens["read"])
    with pytest.raises(ReportingError, match="has the scope read, and this needs write"):
        push(tmp_path, target, patience_seconds=3600)
    monkeypatch.setenv(TOKEN, closed.tokens["write"])
    assert push(tmp_path, target, patience_seconds=60) == 2


def test_the_doctor_looks_with_the_token_of_the_training(closed: Closed, monkeypatch: pytest.MonkeyPatch) -> None:
    target = closed.client.listening.grpc_address
    *_, refused = way_to(target)
    assert (refused.state, refused.to_do) == ("fail", "")
    assert f"file that {TOKEN_FILE} names" in refused.found
    for scope, found in (("write", "and a token that only reports"), ("administer", "with")):
        monkeypatch.setenv(TOKEN, closed.tokens[scope])
        *_, protocol = way_to(target)
        assert protocol.state == "ok"
        assert found in protocol.found


def test_a_token_goes_over_no_network_on_which_others_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN, "smt_secret")
    for target in ("192.0.2.1:50051", "ipv4:127.0.0.1:1,192.0.2.1:1", "xds:///monitor"):
        with pytest.raises(ConfigurationError, match=r"unencrypted.*grpcs://") as refused:
            check_target(target)
        assert "smt_secret" not in str(refused.value)
    for target in ("127.0.0.1:50051", "unix:/run/monitor.sock", "grpcs://192.0.2.1:50051"):
        assert call_metadata(check_target(target)) == (("authorization", "Bearer smt_secret"),)
    monkeypatch.setenv(INSECURE_NETWORK, "true")
    assert call_metadata(check_target("192.0.2.1:50051"))


@pytest.mark.parametrize("text", ["", "two words", "smt_\x00secret", "smt_sécret"])
def test_what_is_no_token_is_refused_before_training_and_not_shown(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text(text)
    monkeypatch.setenv(TOKEN_FILE, str(tmp_path / "token"))
    with pytest.raises(ConfigurationError, match=f"what {TOKEN_FILE} gives") as refused:
        check_target("localhost:50051")
    assert not text or text not in str(refused.value)
    monkeypatch.setenv(TOKEN, "smt_other")
    with pytest.raises(ConfigurationError, match="are both set"):
        check_target("localhost:50051")
