from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import monitor
from monitor.report.spool import AttemptKey, Spool
from monitor.service.settings import ServiceSettings
from tests.service.messages import finished, observed, registration
from tests.service.running import COMMAND, Client, ServiceProcess


def _command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    # Wide enough that the table is not folded.
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


def test_runs_are_listed(client: Client, run_id: str) -> None:
    client.register(registration(run_id, name="[bold]not markup[/]"))
    client.send(run_id, [observed(1, step=12), finished(2, step=12, reason="out of memory")])
    shown = _command("runs", client.listening.grpc_address).stdout
    row = next(line for line in shown.splitlines() if run_id in line)
    cells = [cell.strip() for cell in row.split("│")]
    assert cells[1:7] == [run_id, "[bold]not markup[/]", "an-organisation/a-model", "failed: out of memory", "1", "12"]
    assert "bits, bfloat16" in cells


def test_a_run_with_an_absurd_clock_is_listed_among_the_others(client: Client, run_id: str) -> None:
    client.register(registration(run_id))
    client.send(run_id, [observed(1, observed_at=1e300)])
    done = _command("runs", client.listening.grpc_address)
    assert done.returncode == 0, done.stderr
    assert run_id in done.stdout


def test_a_service_that_does_not_answer_is_named() -> None:
    done = _command("runs", "127.0.0.1:1")
    assert done.returncode == 1
    assert done.stderr.startswith("127.0.0.1:1 did not list its runs")
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
unwanted = ("torch", "transformers", "numpy", "monitor.observe", "monitor.report", "monitor.callback")
print([name for name in unwanted if name in sys.modules])
"""


def test_the_service_runs_where_there_is_no_torch() -> None:
    done = subprocess.run([sys.executable, "-c", _IMPORTED], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("arguments", [("serve", "--no-such-option"), ("no-such-command",)])
def test_a_mistyped_command_is_a_usage_error(arguments: tuple[str, ...]) -> None:
    assert _command(*arguments).returncode == 2
