"""The package under the name of its distribution: the same modules, also where `monitor` is something of the user's."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.report.attempts import steps
from tests.service.running import service_in_thread
from tests.tiny import save_model

ROOT = Path(__file__).parent.parent


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """What the wheel puts into site-packages; tests/deploy/test_installed.py builds the wheel itself."""
    directory = tmp_path / "installed"
    directory.mkdir()
    (directory / "monitor").symlink_to(ROOT / "monitor")
    (directory / "sparsity_monitor.py").symlink_to(ROOT / "monitor" / "sparsity_monitor.py")
    return directory


def _a_module(directory: Path) -> None:
    (directory / "monitor.py").write_text("mine = True\n")


def _a_package(directory: Path) -> None:
    (directory / "monitor").mkdir()
    (directory / "monitor" / "__init__.py").write_text("mine = True\n")
    # A name that ours has, too.
    (directory / "monitor" / "callback.py").write_text("mine = True\n")


def _run(installed: Path, script: Path, code: str, *arguments: str) -> str:
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, script, *arguments],
        cwd=script.parent,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


_EVERY_MODULE = """
import importlib, pkgutil, sys
from collections import Counter
import sparsity_monitor

for each in pkgutil.walk_packages(sparsity_monitor.__path__, "sparsity_monitor."):
    if each.name != "sparsity_monitor.sparsity_monitor":
        importlib.import_module(each.name)
for name in sparsity_monitor.__all__:
    getattr(sparsity_monitor, name)
modules = {id(module): module for name, module in sys.modules.items() if name.partition(".")[0] == "sparsity_monitor"}
files = Counter(module.__file__ for module in modules.values())
print(len(files), max(files.values()), {module.__name__.partition(".")[0] for module in modules.values()})
"""


def _modules() -> int:
    return sum(1 for path in (ROOT / "monitor").rglob("*.py") if path.name != "sparsity_monitor.py")


_USERS_OWN = "import monitor\nassert monitor.mine\nassert not hasattr(monitor, 'SparsityCallback')\n"


def test_every_module_is_there_once_beside_a_monitor_of_the_users(installed: Path, tmp_path: Path) -> None:
    _a_module(tmp_path)
    shown = _run(installed, tmp_path / "script.py", "import monitor\n" + _EVERY_MODULE + _USERS_OWN)
    assert shown.splitlines()[-1] == f"{_modules()} 1 {{'sparsity_monitor'}}"


@pytest.mark.parametrize("beside", [_a_module, _a_package])
def test_the_users_own_comes_later_and_is_still_theirs(
    beside: Callable[[Path], None], installed: Path, tmp_path: Path
) -> None:
    beside(tmp_path)
    ours = "from sparsity_monitor.report.spool.items import Spool\n"
    ours += "assert Spool.__module__ == 'sparsity_monitor.report.spool.items'\n"
    _run(installed, tmp_path / "script.py", ours + _USERS_OWN)


_SAME = """
import sys
import monitor, sparsity_monitor
import monitor.report.reporter, sparsity_monitor.report.reporter, sparsity_monitor.wire.monitor_pb2
assert sparsity_monitor is monitor
for name in ("report", "report.reporter", "report.spool.items", "wire.monitor_pb2"):
    assert sys.modules[f"monitor.{name}"].__name__ == f"monitor.{name}"
for name in [name for name in sys.modules if name.startswith("sparsity_monitor.")]:
    assert sys.modules[name] is sys.modules[name.replace("sparsity_monitor", "monitor")]
"""


@pytest.mark.parametrize("first", ["import monitor.report.reporter\n", "import sparsity_monitor.report.reporter\n"])
def test_both_names_stand_for_the_same_modules(first: str, installed: Path, tmp_path: Path) -> None:
    # Without __init__.py, a folder is not imported before a package that is installed.
    (tmp_path / "monitor").mkdir()
    _run(installed, tmp_path / "script.py", first + _SAME)


_TRAIN = """
import pickle, sys
from pathlib import Path
import monitor
from sparsity_monitor import SparsityCallback
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

assert monitor.mine
model, target = sys.argv[1:]
# As it is sent to a worker.
callback = pickle.loads(pickle.dumps(SparsityCallback(target, "beside", run_id="beside")))
arguments = TrainingArguments(
    output_dir="output", max_steps=2, report_to="none", use_cpu=True, save_strategy="no", disable_tqdm=True
)
data = [{"input_ids": [1, 2, 3], "labels": [1, 2, 3]}] * 16
trainer = Trainer(AutoModelForCausalLM.from_pretrained(model), arguments, train_dataset=data)
callback.attach(trainer)
trainer.train()
print(callback.last_observation.step)
"""


def test_a_training_beside_a_monitor_of_the_users_is_observed_and_reported(installed: Path, tmp_path: Path) -> None:
    _a_package(tmp_path)
    model = save_model(tmp_path / "model")
    with service_in_thread(tmp_path / "store.db") as client:
        shown = _run(installed, tmp_path / "train.py", _TRAIN, str(model), client.listening.grpc_address)
        assert shown.splitlines()[-1] == "2"
        assert steps(client, "beside") == [1, 2]
        assert client.is_over("beside")
