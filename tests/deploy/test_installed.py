"""The wheel in fresh environments: the service where there is no torch, the callback where torch is already there."""

from __future__ import annotations

import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from monitor.version import __version__
from tests.deploy.installed import Environment, build_wheel
from tests.eventually import eventually
from tests.installing import ROOT, clean_environment
from tests.service.messages import new_run_id, registration
from tests.service.running import ServiceProcess

# One worker builds the wheel, and has the service that the training reports to.
pytestmark = pytest.mark.xdist_group("installed")

ONLY_TRAINING_NEEDS = {"torch", "safetensors", "transformers", "trl", "accelerate", "datasets"}
_TRAIN = """
import sys
import torch
import transformers
import monitor
from monitor import SparsityCallback

config = transformers.LlamaConfig(
    vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
)
arguments = transformers.TrainingArguments(
    output_dir="run", max_steps=2, logging_steps=1, learning_rate=1e-3, report_to="none", use_cpu=True
)
callback = SparsityCallback(sys.argv[1], "installed")
trainer = transformers.Trainer(
    transformers.LlamaForCausalLM(config),
    arguments,
    train_dataset=[{"input_ids": [1, 2, 3], "labels": [1, 2, 3]}] * 16,
    callbacks=[callback],
)
trainer.train()
print(monitor.__file__)
print(callback.run_id, callback.last_observation.step, int(callback.last_observation.changed.sum()))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def watching(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with the service and nothing else."""
    environment = Environment(tmp_path_factory.mktemp("watching"))
    brought = environment.install(wheel, "[service]")
    assert {"sparsity-monitor", "grpcio", "pydantic", "fastapi"} <= brought
    assert not brought & ONLY_TRAINING_NEEDS
    return environment


@pytest.fixture(scope="module")
def service(watching: Environment) -> Iterator[ServiceProcess]:
    directory = watching.directory
    process = ServiceProcess(directory / "store.db", program=watching.command, cwd=directory, env=clean_environment())
    yield process
    process.close()


def test_the_service_serves_without_torch(watching: Environment, service: ServiceProcess) -> None:
    run_id = new_run_id()
    service.client.register(registration(run_id))
    assert run_id in service.client.http.get("/metrics").text
    for path in ("/", "/runbook", "/style.css", "/icon.svg", "/favicon.ico"):
        assert service.client.http.get(path).status_code == 200
    assert watching.run(watching.command, "--version").stdout.strip() == __version__
    listed = watching.run(watching.command, "runs", service.client.listening.grpc_address)
    assert run_id in listed.stdout, listed.stderr


def test_the_command_starts_beside_a_monitor_of_the_users(watching: Environment, tmp_path: Path) -> None:
    (tmp_path / "monitor.py").write_text("raise SystemExit('the monitor.py of a user was imported')")
    for command in (["--version"], ["serve", "--help"], ["push", str(tmp_path)]):
        done = subprocess.run(
            [watching.command, *command],
            cwd=tmp_path,
            env=clean_environment() | {"PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert "a user was imported" not in done.stdout + done.stderr
        assert done.returncode == 0 or "there is no spool.sqlite" in done.stderr, done.stderr


def test_the_wheel_has_no_module_twice(wheel: Path) -> None:
    names = [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")]
    assert {name.partition("/")[0] for name in names} == {"monitor", "sparsity_monitor.py"}
    assert "monitor/sparsity_monitor.py" not in names
    assert {f"monitor/{path.relative_to(ROOT / 'monitor')}" for path in (ROOT / "monitor").rglob("*.py")} == {
        *names,
        "monitor/sparsity_monitor.py",
    } - {"sparsity_monitor.py"}


@pytest.mark.parametrize("name", ["SparsityCallback", "UpdateObserver", "UpdateMask", "MaskFile"])
def test_without_torch_the_training_side_says_what_to_install(watching: Environment, name: str) -> None:
    done = watching.run(watching.python, "-c", f"from monitor import {name}")
    assert done.stderr.splitlines()[-1] == (
        f"monitor.errors.MissingLibraryError: {name} needs torch, which is not installed: install torch, or everything "
        'that training needs with pip install "sparsity-monitor[train]"'
    )


def test_an_environment_that_has_torch_trains_with_the_base_install(
    wheel: Path, service: ServiceProcess, tmp_path: Path
) -> None:
    environment = Environment(tmp_path / "training")
    environment.lend("torch", "transformers", "accelerate")
    brought = environment.install(wheel)
    assert {"sparsity-monitor", "grpcio", "protobuf"} <= brought
    assert not brought & (ONLY_TRAINING_NEEDS | {"numpy", "fastapi", "typer"})

    target = service.client.listening.grpc_address
    done = environment.run(environment.python, "-c", _TRAIN, target)
    assert done.returncode == 0, done.stderr
    home, counts = done.stdout.splitlines()[-2:]
    assert Path(home).is_relative_to(environment.directory)
    run_id, step, changed = counts.split()
    assert int(step) == 2
    assert int(changed) > 0
    eventually(lambda: service.client.is_over(run_id))
    assert service.client.metric("run_changed_weights", run=run_id) == int(changed)
    pushed = environment.run(environment.command, "push", "run", "--target", target)
    assert pushed.returncode == 0, pushed.stderr
