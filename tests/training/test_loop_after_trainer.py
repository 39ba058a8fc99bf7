"""A loop of one's own that goes on from a Trainer's checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

import monitor
from monitor import SparsityCallback
from tests.counting import changed_by_group
from tests.spooled import recorded_in
from tests.tiny import common_arguments, plain_trainer, save_model


def test_a_loop_goes_on_from_a_trainers_checkpoint_as_the_same_run(tmp_path: Path) -> None:
    base, output = save_model(tmp_path / "base"), tmp_path / "run"
    callback = SparsityCallback(None)
    arguments = common_arguments(output, max_steps=2, learning_rate=1e-3, save_strategy="steps", save_steps=2)
    plain_trainer(base, arguments, [callback]).train()
    checkpoint = output / "checkpoint-2"
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    settings = {"base": str(base), "output_dir": output, "resume_from": checkpoint, "strict": True}
    with monitor.watch(model, None, **settings) as watch:
        tokens = torch.arange(3, 11)[None]
        model(tokens, labels=tokens).loss.backward()
        optimizer.step()
        watch.step()
    model.save_pretrained(tmp_path / "final")
    assert watch.run_id == callback.run_id
    assert [each.step for each in recorded_in(output, "observation")] == [1, 2, 3]
    first, last = callback.last_observation, watch.last_observation
    assert first is not None
    assert last is not None
    # The first step is compared with the checkpoint's weights, and what the Trainer had touched is known.
    assert last.stride == 1
    assert last.touched.sum() >= first.touched.sum() > 0
    assert last.changed.sum() == sum(changed_by_group(base, tmp_path / "final").values())
