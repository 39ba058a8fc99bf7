from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

import monitor
from monitor.report.spool.attempt import AttemptKey
from monitor.report.spool.items import Spool
from monitor.service.settings import ServiceSettings
from tests.service.messages import finished, new_run_id, observed, registration
from tests.service.running import COMMAND, Client, ServiceProcess


def _command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    # Wide enough that help is not folded.
    env = {"PATH": "/usr/bin:/bin", "COLUMNS": "300", **environment}
    return subprocess.run([COMMAND, *arguments], capture_output=True, text=True, check=False, timeout=120, env=env)


def test_the_version_is_told() -> None:
    assert _command("--version").stdout.strip() == monitor.__version__


def test_every_setting_has_an_option_and_a_variable() -> None:
    shown = _command("serve", "--help").stdout
    for name in ServiceSettings.model_fields:
        assert f"--{name.replace('_', '-')} " in shown
        assert f"SPARSITY_MONITOR_{name.upper()}" in shown


def test_a_setting_can_come_from_the_environment(tmp_path: Path) -> None:
    env = {"PATH": "/usr/bin:/bin", "SPARSITY_MONITOR_MAX_REQUEST_BYTES": "5000"}
    service = ServiceProcess(tmp_path / "store.db", env=env)
    try:
        assert service.client.register(registration()).max_request_bytes == 5000
    finally:
        service.close()


def test_settings_that_cannot_work_are_explained_together() -> None:
    done = _command("serve", "--grpc-address", "nowhere", "--max-runs", "0", "--store-url", "mysql://me:s3cret@host/db")
    assert done.returncode == 1
    assert "--grpc-address: 'nowhere' was given; expected host:port" in done.stderr
    assert "--max-runs: 0 was given; input should be greater than or equal to 1" in done.stderr
    assert "--store-url: 'mysql://me:***@host/db' was given" in done.stderr
    assert "Traceback" not in done.stderr
    assert "s3cret" not in done.stderr


def test_what_keeps_the_service_from_starting_is_told_without_a_traceback(tmp_path: Path) -> None:
    done = _command("serve", "--store-url", f"sqlite:///{tmp_path}/missing/store.db")
    assert done.returncode == 1
    assert done.stderr.startswith("cannot open the store")
    assert "Traceback" not in done.stderr


def _fields(listed: str, run_id: str) -> dict[str, str]:
    """The line of a run in what a pipe gets."""
    head, *lines = (line.split("\t") for line in listed.splitlines())
    (fields,) = [line for line in lines if line[0] == run_id]
    return dict(zip(head, fields, strict=True))


def test_runs_are_listed_for_programs(client: Client, run_id: str) -> None:
    client.register(registration(run_id, name="[bold]not markup[/]"))
    client.send(run_id, [observed(1, step=12), finished(2, step=12, reason="out of memory")])
    assert _fields(_command("runs", client.listening.grpc_address).stdout, run_id) == {
        "run": run_id,
        "name": "[bold]not markup[/]",
        "model": "an-organisation/a-model",
        "state": "failed",
        "reason": "out of memory",
        "attempt": "1",
        "step": "12",
        "observations": "1",
        "last observation": "2023-11-14 22:13:32 UTC",
        "measured as": "bits, bfloat16",
        "branch of": "",
        "planned steps": "",
        "thinned": "",
    }


def _in_terminal(columns: int, *arguments: str) -> str:
    """What the command shows in a terminal of that width."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    env = {"PATH": "/usr/bin:/bin", "TERM": "xterm", "PYTHONUTF8": "1"}
    process = subprocess.Popen([COMMAND, *arguments], stdin=its, stdout=its, stderr=its, env=env)
    os.close(its)
    shown = b""
    # Linux ends what is read from a terminal without writers with an error.
    with contextlib.suppress(OSError), open(ours, "rb", buffering=0) as terminal:
        while some := terminal.read(65536):
            shown += some
    assert process.wait(timeout=60) == 0, shown
    return shown.decode().replace("\r\n", "\n")


def _without_style(shown: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", shown)


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_runs_are_listed_for_people(columns: int, start: Callable[..., Client]) -> None:
    client = start()
    client.register(registration("run-4711", name="[bold]not markup[/]"))
    client.send("run-4711", [observed(1, step=12), finished(2, step=12, reason="out of memory")])
    client.register(registration("x" * 300, attempt=2, name="", model="机" * 100))
    shown = _without_style(_in_terminal(columns, "runs", client.listening.grpc_address))
    assert max(map(_width, shown.splitlines())) <= columns
    if columns == 80:
        assert shown.splitlines()[-4:] == [
            "[bold]not markup[/]  run-4711",
            "  failed at step 12 · 1 observation, 2023-11-14 22:13:32 UTC",
            "  reason: out of memory",
            "  an-organisation/a-model · bits, bfloat16",
        ]
    # Nothing is cut off.
    assert "x" * 300 in shown.replace("\n", "")
    assert shown.count("机") == 100
    assert "attempt 2" in " ".join(shown.split())


def _width(line: str) -> int:
    return sum(2 if unicodedata.east_asian_width(each) in "WF" else 1 for each in line)


_HOSTILE = ["\x1b[2J\x1b]0;title\x07", "a\nrun-2\tfinished", "a\rb", "\u202eabc\u2066", "\x9b31m", "\u2028", "\x00\x7f"]


class _Listed(NamedTuple):
    """Runs with such names, by these, and what the command says of all of them in a pipe and in a terminal."""

    run_ids: dict[str, str]
    piped: str
    shown: str


@pytest.fixture(scope="module")
def hostile_runs(client: Client) -> _Listed:
    run_ids = {hostile: new_run_id() for hostile in _HOSTILE}
    for hostile, run_id in run_ids.items():
        client.register(registration(run_id, name=f"<{hostile}>", model=f"<{hostile}>"))
        client.send(run_id, [finished(1, reason=f"<{hostile}>")])
    at = client.listening.grpc_address
    return _Listed(run_ids, _command("runs", at).stdout, _without_style(_in_terminal(500, "runs", at)))


@pytest.mark.xdist_group("hostile runs")
@pytest.mark.parametrize("hostile", _HOSTILE)
def test_what_runs_are_called_does_nothing_to_a_terminal(hostile: str, hostile_runs: _Listed) -> None:
    escaped = hostile.encode("unicode_escape").decode()
    fields = _fields(hostile_runs.piped, hostile_runs.run_ids[hostile])
    assert (fields["name"], fields["model"], fields["reason"]) == (f"<{escaped}>",) * 3
    assert hostile_runs.shown.count(f"<{escaped}>") >= 3
    assert all(line.isprintable() for line in hostile_runs.shown.split("\n"))


def test_a_name_that_the_terminal_cannot_show_is_escaped(client: Client, run_id: str) -> None:
    client.register(registration(run_id, name="机 e"))
    done = _command("runs", client.listening.grpc_address, PYTHONIOENCODING="latin-1", PYTHONUTF8="0")
    assert done.returncode == 0, done.stderr
    assert r"\u673a" in done.stdout


def test_a_reader_that_leaves_early_is_no_error(client: Client, run_id: str) -> None:
    client.register(registration(run_id))
    command = f"{COMMAND} runs {client.listening.grpc_address} | true"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True, timeout=120)
    assert done.stderr == ""


def test_runs_and_push_look_for_the_service_at_the_same_place() -> None:
    for command in ("runs", "push"):
        assert "127.0.0.1:50051" in _command(command, "--help").stdout


def test_a_run_with_an_absurd_clock_is_listed_among_the_others(client: Client, run_id: str) -> None:
    client.register(registration(run_id))
    client.send(run_id, [observed(1, observed_at=1e300)])
    done = _command("runs", client.listening.grpc_address)
    assert done.returncode == 0, done.stderr
    assert run_id in done.stdout


def test_a_service_that_does_not_answer_is_named() -> None:
    done = _command("runs", "127.0.0.1:1")
    assert done.returncode == 1
    assert done.stderr.startswith("cannot reach the service at 127.0.0.1:1: ")
    assert "Traceback" not in done.stderr


_WITHOUT = """
import sys
sys.modules[sys.argv.pop(1)] = None
from monitor.cli import main
main()
"""


def _command_without(library: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", _WITHOUT, library, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize("library", ["typer", "uvicorn", "sqlalchemy"])
def test_without_the_service_extra_the_command_says_what_to_install(library: str) -> None:
    done = _command_without(library, "serve")
    assert done.returncode == 1
    assert library in done.stderr
    assert 'pip install "sparsity-monitor[service]"' in done.stderr
    assert "Traceback" not in done.stderr


def test_a_training_environment_can_push(client: Client, run_id: str, tmp_path: Path) -> None:
    key, spool = AttemptKey(run_id, 1), Spool(tmp_path / "sparsity_monitor")
    spool.begin(key, registration(run_id).SerializeToString())
    spool.append(key, [(item.sequence, item.SerializeToString()) for item in (observed(1), finished(2))], finished=True)
    spool.close()
    done = _command_without("typer", "push", str(tmp_path), "--target", client.listening.grpc_address)
    assert done.stdout == f"delivered 2 items to {client.listening.grpc_address}\n", done.stderr
    assert len(client.history(run_id)) == 2
    refused = _command_without("typer", "push", str(tmp_path / "elsewhere"))
    assert refused.returncode == 1
    assert "there is no spool" in refused.stderr


_IMPORTED = """
import sys
import monitor.service.server, monitor.cli
unwanted = ("torch", "transformers", "monitor.observe", "monitor.report", "monitor.callback")
print([name for name in unwanted if name in sys.modules])
"""


def test_the_service_runs_where_there_is_no_torch() -> None:
    done = subprocess.run([sys.executable, "-c", _IMPORTED], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("arguments", [("serve", "--no-such-option"), ("no-such-command",)])
def test_a_mistyped_command_is_a_usage_error(arguments: tuple[str, ...]) -> None:
    assert _command(*arguments).returncode == 2
