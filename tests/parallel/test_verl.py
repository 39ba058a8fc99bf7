"""examples/verl_fsdp.py against a stand-in of verl's engine, with FSDP2 on two processes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from monitor.wire import monitor_pb2 as pb
from tests.parallel import verl_stand_in
from tests.parallel.processes import run_together
from tests.parallel.sharded import (
    assert_counted,
    assert_refused_at_once,
    batch,
    import_example,
    load_sharded,
    save_whole,
)
from tests.spooled import recorded_in

pytestmark = pytest.mark.xdist_group("parallel")

MINI_BATCHES = 2
ROUNDS = 2


def train_with_verl(directory: Path, param_offload: bool) -> list[Any]:
    """Train as verl's workers do: a round, a checkpoint, a new engine that loads it, and the last round."""
    verl_stand_in.install()
    settings = {"TARGET": "none", "STRICT": "1", "OUTPUT_DIR": str(directory / "run")}
    os.environ |= {f"SPARSITY_MONITOR_{name}": each for name, each in settings.items()}
    import_example("verl_fsdp")
    kind = verl_stand_in.EngineRegistry.get_engine_cls("language_model", "fsdp2")
    checkpoint, observations = str(directory / "global_step_1" / "actor"), []
    assert_refused_at_once(lambda: kind(None, ROUNDS, param_offload=param_offload))
    for number in range(ROUNDS):
        engine = kind(load_sharded(str(directory / "base")), ROUNDS, param_offload=param_offload)
        if number:
            engine.load_checkpoint(checkpoint)
        verl_stand_in.train_mini_batches(engine, batches_of(number))
        save_whole(engine.module, directory / f"weights-{number}")
        engine.save_checkpoint(checkpoint, None, number + 1, max_ckpt_to_keep=1)
        observations.append(engine.watch.last_observation)
    plain = verl_stand_in.FSDPEngineWithLMHead(
        load_sharded(str(directory / "base")), ROUNDS, param_offload=param_offload
    )
    verl_stand_in.train_mini_batches(plain, batches_of(0))
    save_whole(plain.module, directory / "unobserved")
    return observations


def batches_of(number: int) -> list[Any]:
    """The mini-batches of a round."""
    return [batch(MINI_BATCHES * number + each) for each in range(MINI_BATCHES)]


@pytest.mark.parametrize("param_offload", [False, True])
def test_the_actor_of_verl_is_counted_on_all_workers_and_across_a_resume(param_offload: bool, tmp_path: Path) -> None:
    # Not for the processes, which import this file: it takes longer than they train.
    from tests.tiny import save_model

    base = save_model(tmp_path / "base")
    for observations in run_together(train_with_verl, 2, tmp_path, param_offload):
        for number, observation in enumerate(observations):
            assert_counted(observation, base, tmp_path / f"weights-{number}")
    # Without the monitor, the first round is the same bit for bit.
    first, unobserved = (tmp_path / name / "model.safetensors" for name in ("weights-0", "unobserved"))
    assert first.read_bytes() == unobserved.read_bytes()
    logs = recorded_in(tmp_path / "run", "training_log")
    steps = [each.step for each in recorded_in(tmp_path / "run", "observation")]
    assert steps == [each.step for each in logs] == list(range(1, ROUNDS * MINI_BATCHES + 1))
    assert all(each.metrics["grad_norm"] > 0 for each in logs)
    # The last of the planned rounds ends it.
    assert [each.outcome for each in recorded_in(tmp_path / "run", "finish")] == [pb.Finish.OUTCOME_FINISHED]
