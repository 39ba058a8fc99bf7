"""What a checkpoint says of its run, and what is read of it by another version."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from transformers import TrainerState

from monitor import SparsityCallback
from monitor.training.resume import RunIdentity, measured_as
from monitor.training.settings import RunSettings
from tests.spooled import attempts
from tests.tiny import common_arguments, save_model, sft_trainer

# As 0.1.0 writes it into trainer_state.json.
ENTRY = """
{
  "args": {},
  "attributes": {
    "attempt": 3,
    "base_fingerprint": "0123456789abcdef0123456789abcdef",
    "measured_as": {
      "criterion": "bits",
      "exclude": ["norm"],
      "include": null,
      "visible_dtype": "bfloat16"
    },
    "run_id": "grpo-on-gsm8k-0a1b2c3d"
  }
}
"""
IDENTITY = RunIdentity(
    run_id="grpo-on-gsm8k-0a1b2c3d",
    attempt=3,
    base_fingerprint="0123456789abcdef0123456789abcdef",
    measured_as={"criterion": "bits", "exclude": ["norm"], "include": None, "visible_dtype": "bfloat16"},
)


def test_the_entry_in_a_trainers_state_is_that_of_the_released_version() -> None:
    entry = json.loads(ENTRY)
    assert RunIdentity.of(TrainerState(stateful_callbacks={"sparsity_monitor": entry})) == IDENTITY
    state = TrainerState()
    IDENTITY.write(state)
    written = state.stateful_callbacks["sparsity_monitor"]
    assert written["args"] == {}
    # What was added since says nothing of such a run.
    assert written["attributes"].items() >= entry["attributes"].items()
    assert not any(value for name, value in written["attributes"].items() if name not in entry["attributes"])


def test_what_a_later_version_adds_to_the_entry_is_passed_over() -> None:
    entry = json.loads(ENTRY)
    entry["attributes"]["added_later"] = 1
    assert RunIdentity.of(TrainerState(stateful_callbacks={"sparsity_monitor": entry})) == IDENTITY


def test_a_state_that_no_run_has_written_names_none() -> None:
    assert RunIdentity.of(TrainerState()) is None


def test_a_checkpoint_of_the_released_version_is_resumed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The next attempt of the same run, against the same base, from the weights that it had touched."""
    caplog.set_level(logging.WARNING, logger="monitor")
    model = save_model(tmp_path / "model")
    settings = {"save_strategy": "steps", "save_steps": 2, "learning_rate": 1e-4}
    arguments = common_arguments(tmp_path / "out", **settings)
    whole, resumed = (SparsityCallback(None, "test", exclude=["norm"]) for _ in range(2))
    sft_trainer(model, arguments, [whole]).train()

    checkpoint = tmp_path / "out" / "checkpoint-2"
    assert [path.name for path in (checkpoint / "sparsity_monitor").iterdir()] == [
        "touched_mask-00000-of-00001.safetensors"
    ]
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    fingerprint = state["stateful_callbacks"]["sparsity_monitor"]["attributes"]["base_fingerprint"]
    entry = json.loads(ENTRY.replace(IDENTITY.base_fingerprint, fingerprint))
    state["stateful_callbacks"]["sparsity_monitor"] = entry
    (checkpoint / "trainer_state.json").write_text(json.dumps(state))

    sft_trainer(model, arguments, [resumed]).train(resume_from_checkpoint=str(checkpoint))
    assert resumed.run_id == "grpo-on-gsm8k-0a1b2c3d"
    assert attempts(resumed)[-1].key.attempt == 4
    assert whole.last_observation is not None
    assert resumed.last_observation is not None
    for name in ("changed", "touched", "step_changed"):
        assert getattr(resumed.last_observation, name).tolist() == getattr(whole.last_observation, name).tolist()
    assert "touched" not in caplog.text


def test_a_run_is_measured_alike_whatever_the_order_of_the_patterns() -> None:
    first, second = (RunSettings(None, exclude=some) for some in (["norm", "bias"], ["bias", "norm"]))
    none, empty = (RunSettings(None, include=some) for some in (None, []))
    assert measured_as(first) == measured_as(second) != measured_as(none) == measured_as(empty)
