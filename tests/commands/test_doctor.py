"""`doctor` as a process: what it finds on ways that are whole, and on ways that are broken in one place."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from monitor.report.spool.attempt import AttemptKey
from monitor.report.spool.file import SPOOL_FILE
from monitor.report.spool.items import Spool
from tests.commands.running import WITHOUT_TYPER, command, command_after, shell
from tests.proxy import refusing_proxy
from tests.service.messages import observed, registration
from tests.service.running import Client

# One worker forks them all.
pytestmark = pytest.mark.xdist_group("commands")


def _states(shown: str) -> dict[str, str]:
    """The state of each check."""
    return {each["check"]: each["state"] for each in json.loads(shown)["checks"]}


def test_a_way_that_is_whole_is_in_order(service: Client, url: str, tmp_path: Path) -> None:
    target = service.listening.grpc_address
    arguments = ("doctor", target, "--service-url", url, "--directory", str(tmp_path))
    done = command(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[1] for line in lines[:-1] if line[0] != " "] == [
        *("target", "proxy", "name", "port", "protocol", "version", "clock", "directory", "disk", "spool")
    ]
    assert lines[4] == "ok    protocol   sparsity-monitor, protocol version 1, with 4 runs"
    assert lines[-1] == "everything is in order"
    # A training environment has no typer.
    assert command_after(WITHOUT_TYPER, *arguments).stdout.splitlines()[:8] == lines[:8]
    assert list(tmp_path.iterdir()) == []


def test_one_of_several_addresses_is_enough(service: Client, url: str) -> None:
    target = f"ipv4:127.0.0.1:1,{service.listening.grpc_address}"
    done = command("doctor", target, "--service-url", url, COLUMNS="500")
    assert done.returncode == 0
    assert "warn  port       port 1 cannot be reached" in done.stdout
    assert done.stdout.splitlines()[-1] == "it works; look at: port"


def test_a_spool_that_is_looked_at_stays_as_it_is(tmp_path: Path) -> None:
    _spool(tmp_path)
    directory = tmp_path / "sparsity_monitor"
    before = {each.name: each.read_bytes() for each in directory.iterdir()}
    directory.chmod(0o555)
    shown = command("doctor", "127.0.0.1:1", "--directory", str(tmp_path), "--json").stdout
    directory.chmod(0o755)
    assert "2 items of attempt 1 of grpo-7 not delivered" in shown
    assert {each.name: each.read_bytes() for each in directory.iterdir()} == before


def test_looking_registers_nothing(service: Client) -> None:
    before = service.http.get("/metrics").text.count("run_info")
    command("doctor", service.listening.grpc_address)
    assert service.http.get("/metrics").text.count("run_info") == before


@pytest.mark.parametrize(
    ("target", "check", "said"),
    [
        ("http://localhost:1", "target", "Leave http:// away, as in 'localhost:1'"),
        ("nowhere.invalid:1", "name", "nowhere.invalid is not known here: "),
        ("127.0.0.1:1", "port", "sparsity-monitor serve --grpc-address HOST:PORT`: by default it listens to its own"),
        ("unix:/nowhere/monitor.sock", "protocol", "cannot reach the service at unix:/nowhere/monitor.sock"),
    ],
)
def test_the_first_thing_that_is_broken_is_named_with_what_to_do(target: str, check: str, said: str) -> None:
    done = command("doctor", target, COLUMNS="500")
    assert (done.returncode, done.stderr) == (1, "")
    *_, line, summary = [line for line in done.stdout.splitlines() if line[0] != " "]
    assert line.startswith(f"fail  {check}")
    assert summary == f"not in order: {check}"
    assert said in done.stdout


def test_another_server_is_no_service(service: Client) -> None:
    done = command("doctor", service.listening.http_address, COLUMNS="500")
    assert done.returncode == 1
    assert "speaks HTTP and no gRPC: give the service's gRPC address, by default port 50051" in done.stdout


def test_a_service_of_another_protocol_is_told(service: Client) -> None:
    newer = "import monitor.wire; monitor.wire.PROTOCOL_VERSION = 2"
    done = command_after(newer, "doctor", service.listening.grpc_address, "--json")
    assert done.returncode == 1
    (found,) = [each["found"] for each in json.loads(done.stdout)["checks"] if each["state"] == "fail"]
    assert "the sender speaks protocol version 2, the service 1; upgrade" in found


def test_a_proxy_that_stands_between_is_named_without_its_password(tmp_path: Path) -> None:
    with refusing_proxy(tmp_path) as proxy:
        done = command("doctor", "192.0.2.1:50051", "--json", http_proxy=proxy.url("me:s3cret@"))
    assert done.returncode == 1
    assert _states(done.stdout) == {"target": "ok", "proxy": "warn", "protocol": "fail"}
    assert f"http_proxy=http://***@{proxy.address}" in done.stdout
    assert "s3cret" not in done.stdout


class _OtherTime(BaseHTTPRequestHandler):
    """The pages of a service whose clock is behind, and whose version is another."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'sparsity_monitor_build_info{protocol_version="1",version="9.9"} 1.0\n')

    def date_time_string(self, timestamp: float | None = None) -> str:
        return "Tue, 14 Nov 2023 22:13:20 GMT"

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def _pages() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _OtherTime) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_a_clock_that_is_wrong_and_another_version_are_told(service: Client) -> None:
    with _pages() as url:
        done = command("doctor", service.listening.grpc_address, "--service-url", url, COLUMNS="500")
    assert done.returncode == 0
    assert "9.9 there; they speak the same protocol" in done.stdout
    (clock,) = [line for line in done.stdout.splitlines() if "clock of the service" in line]
    assert clock.startswith("warn  clock      the clock of the service is ")
    assert clock.endswith(" seconds behind this machine's")
    assert done.stdout.splitlines()[-1] == "it works; look at: clock"


def test_pages_that_are_not_there_do_not_matter_to_a_training(service: Client) -> None:
    done = command("doctor", service.listening.grpc_address, "--service-url", "http://127.0.0.1:1", "--json")
    assert done.returncode == 0
    assert _states(done.stdout)["pages"] == "warn"


def _spool(directory: Path) -> AttemptKey:
    key = AttemptKey("grpo-7", 1)
    with closing(Spool(directory / "sparsity_monitor")) as spool:
        spool.begin(key, registration("grpo-7").SerializeToString())
        # Of three, the first was lost before it got here.
        spool.append(key, [(number, observed(number).SerializeToString()) for number in (2, 3)])
    return key


def test_what_is_not_delivered_is_counted_with_the_command_that_delivers_it(service: Client, tmp_path: Path) -> None:
    _spool(tmp_path)
    target = service.listening.grpc_address
    done = command("doctor", target, "--directory", str(tmp_path), COLUMNS="500")
    assert done.returncode == 0
    assert "2 items of attempt 1 of grpo-7 not delivered" in done.stdout
    assert f"sparsity-monitor push {tmp_path} --target {target}" in done.stdout
    assert "1 item of attempt 1 of grpo-7 lost to the service" in done.stdout


def test_a_run_that_was_refused_and_a_damaged_spool_fail(service: Client, tmp_path: Path) -> None:
    key = _spool(tmp_path)
    with closing(Spool(tmp_path / "sparsity_monitor")) as spool:
        spool.set_problem(key, "the run measured something else", refused=True)
    arguments = ("doctor", service.listening.grpc_address, "--directory", str(tmp_path))
    refused = command(*arguments, COLUMNS="500")
    assert refused.returncode == 1
    said = "attempt 1 of grpo-7 was refused for good, 2 items not delivered: the run measured something else"
    assert said in refused.stdout
    assert f"Once that is changed, and the training has ended: sparsity-monitor push {tmp_path}" in refused.stdout
    file = tmp_path / "sparsity_monitor" / SPOOL_FILE
    whole = file.read_bytes()
    file.write_bytes(whole[:8192] + b"\xff" * (len(whole) - 8192))
    damaged = command(*arguments, "--json")
    assert damaged.returncode == 1
    assert _states(damaged.stdout)["spool"] == "fail"
    assert file.read_bytes()[8192:] == b"\xff" * (len(whole) - 8192)


def test_a_directory_that_cannot_be_written_fails(service: Client) -> None:
    done = command("doctor", service.listening.grpc_address, "--directory", "/proc", "--json")
    assert done.returncode == 1
    assert _states(done.stdout)["directory"] == "fail"


def test_a_reader_that_leaves_early_is_no_error() -> None:
    done = shell("$S doctor 127.0.0.1:1 | true")
    assert (done.returncode, done.stderr) == (141, "")


def test_a_mistyped_option_is_a_usage_error() -> None:
    assert command("doctor", "--nowhere").returncode == 2
    assert command_after(WITHOUT_TYPER, "doctor", "--nowhere").returncode == 2
