"""The callback in frameworks around the HF Trainer, against stand-ins of what their plugins meet.

Each stand-in says which source it stands for, and trains with a real Trainer, made as that source makes it.
"""

from __future__ import annotations

import importlib
import inspect
import re
import runpy
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import transformers.trainer
import yaml
from transformers import Trainer, TrainingArguments

from monitor import SparsityCallback
from tests.counting import changed_by_group
from tests.spooled import spooled
from tests.tiny import common_arguments, plain_trainer

EXAMPLES = Path(__file__).parents[2] / "examples"
STEPS = 2


@pytest.fixture(autouse=True)
def configured_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSITY_MONITOR_TARGET", "none")
    monkeypatch.setenv("SPARSITY_MONITOR_STRICT", "1")


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, **members: Any) -> None:
    """Let a module, with the packages around it, be imported as `name`."""
    parts = name.split(".")
    for length in range(1, len(parts)):
        package = ".".join(parts[:length])
        monkeypatch.setitem(sys.modules, package, ModuleType(package))
    module = ModuleType(name)
    vars(module).update(members)
    monkeypatch.setitem(sys.modules, name, module)


def assert_observed(trainer: Trainer, base: Path, output: Path) -> None:
    """Check that the trainer has one callback of ours, which counted what was trained."""
    (callback,) = [each for each in trainer.callback_handler.callbacks if isinstance(each, SparsityCallback)]
    trainer.save_model(str(output / "final"))
    expected = sum(changed_by_group(base, output / "final").values())
    assert callback.last_observation is not None
    assert callback.last_observation.step == STEPS
    assert callback.last_observation.changed.sum() == expected > 0
    assert [each.step for each in spooled(callback, "observation")] == [1, 2]


def make_trainer(model: Path, output: Path, callbacks: list[Any]) -> Trainer:
    return plain_trainer(model, common_arguments(output, max_steps=STEPS, learning_rate=1e-3), callbacks)


def test_axolotl_takes_the_callback_by_one_entry_of_its_file(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """axolotl 0.18.0: integrations/base.py, load_plugin, BasePlugin; core/builders/causal.py, build; base.py.

    `load_plugin` splits "module.Class", imports the module, and makes the class without arguments. The builder extends
    the callbacks by `add_callbacks_pre_trainer(cfg=…, model=…)`, makes the trainer with them, and gives
    `trainer.add_callback` each one of `add_callbacks_post_trainer(cfg, trainer)` that is not false.
    """

    class BasePlugin:
        def add_callbacks_pre_trainer(self, cfg: Any, model: Any) -> list[Callable[..., None]]:
            return []

        def add_callbacks_post_trainer(self, cfg: Any, trainer: Any) -> list[Callable[..., None]]:
            return []

    stand_in(monkeypatch, "axolotl.integrations.base", BasePlugin=BasePlugin)
    text = (EXAMPLES / "axolotl_plugin.py").read_text().split('"""')[1]
    (named,) = yaml.safe_load(text[text.index("    plugins:") : text.index("PYTHONPATH")])["plugins"]
    module, _, kind = named.rpartition(".")
    monkeypatch.delitem(sys.modules, module, raising=False)
    plugin = getattr(importlib.import_module(module), kind)()
    trainer = make_trainer(model, tmp_path, plugin.add_callbacks_pre_trainer(cfg={}, model=None))
    for callback in plugin.add_callbacks_post_trainer({}, trainer):
        if callback:
            trainer.add_callback(callback)
    trainer.train()
    assert_observed(trainer, model, tmp_path)
    # It is attached: the trainer's own log has the sparsities.
    assert any("sparsity/cumulative_sparsity" in entry for entry in trainer.state.log_history)


def test_ms_swift_takes_the_callback_by_its_name(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ms-swift 4.5.2: callbacks/mapping.py, callbacks_map; trainers/mixin.py, _get_callbacks.

    `callbacks_map[name](args, trainer)` is called for each name of --callbacks, before the trainer's own `__init__`.
    """
    callbacks_map: dict[str, Callable[[TrainingArguments, Any], Any]] = {}
    stand_in(monkeypatch, "swift.callbacks", callbacks_map=callbacks_map)
    runpy.run_path(str(EXAMPLES / "ms_swift_plugin.py"))
    arguments = TrainingArguments(str(tmp_path), use_cpu=True)
    trainer = make_trainer(model, tmp_path, [callbacks_map[name](arguments, object()) for name in ["sparsity"]])
    trainer.train()
    assert_observed(trainer, model, tmp_path)


def test_llama_factory_takes_the_callback_by_its_function(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LLaMA-Factory 0.9.5: train/tuner.py, run_exp(args=None, callbacks=None); its workflows hand them to the trainer.

    Without `args`, it reads the command line: the file is its first argument.
    """
    trainers = []

    def run_exp(args: dict[str, Any] | None = None, callbacks: list[Any] | None = None) -> None:
        trainers.append(make_trainer(model, tmp_path, callbacks or []))
        trainers[0].train()

    stand_in(monkeypatch, "llamafactory.train.tuner", run_exp=run_exp)
    runpy.run_path(str(EXAMPLES / "llama_factory_train.py"), run_name="__main__")
    assert_observed(trainers[0], model, tmp_path)


def test_the_loop_that_unsloth_makes_of_the_trainers_source_is_observed(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """unsloth 2026.8.19: models/llama.py, FastLlamaModel.from_pretrained.

    It takes the source of `Trainer._inner_training_loop`, renames it, and executes it in a module of its own.
    """
    source = textwrap.dedent(inspect.getsource(Trainer._inner_training_loop))
    names: dict[str, Any] = vars(transformers.trainer) | {"__name__": "unsloth.models.llama"}
    exec(source.replace("_inner_training_loop", "_fast_inner_training_loop", 1), names)
    monkeypatch.setattr(Trainer, "_inner_training_loop", names["_fast_inner_training_loop"])
    trainer = make_trainer(model, tmp_path, [SparsityCallback()])
    trainer.train()
    assert_observed(trainer, model, tmp_path)


def test_the_table_of_frameworks_names_the_versions_of_the_examples() -> None:
    table = (EXAMPLES / "FRAMEWORKS.md").read_text()
    rows = {name: row for row in table.splitlines() for name in re.findall(r"\]\((\w+)\.py\): ", row)}
    written = {
        path.stem: found[1]
        for path in EXAMPLES.glob("*.py")
        if (found := re.search(r"Written for (\S+ \d[\w.]*\w)", path.read_text()))
    }
    assert len(rows) == len(written) == 6
    for name, version in written.items():
        assert rows[name].startswith(f"| {version}")
