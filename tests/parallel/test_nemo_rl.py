"""examples/nemo_rl_worker.py against a stand-in of NeMo-RL's worker, with FSDP2 on two processes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from monitor.wire import monitor_pb2 as pb
from tests.parallel import nemo_rl_stand_in
from tests.parallel.processes import run_together
from tests.parallel.sharded import assert_counted, assert_refused_at_once, batch, import_example, save_whole
from tests.spooled import recorded_in

pytestmark = pytest.mark.xdist_group("parallel")


def train_with_nemo_rl(directory: Path) -> list[Any]:
    """Train two batches, save, and train two more in a new worker that loads them."""
    nemo_rl_stand_in.install()
    settings = {"TARGET": "none", "STRICT": "1", "OUTPUT_DIR": str(directory / "run")}
    os.environ |= {f"SPARSITY_MONITOR_{name}": each for name, each in settings.items()}
    kind = import_example("nemo_rl_worker").ObservedWorker
    config, checkpoint, observations = {"model_name": str(directory / "base")}, str(directory / "weights"), []
    assert_refused_at_once(lambda: kind({"model_name": "none"}))
    assert kind(config, init_optimizer=False).shutdown()
    for number in range(2):
        worker = kind(config, weights_path=checkpoint if number else None)
        worker.train([batch(2 * number), batch(2 * number + 1)], lambda logits: logits.square().mean())
        save_whole(worker.model, directory / f"weights-{number}")
        worker.save_checkpoint(checkpoint)
        observations.append(worker.watch.last_observation)
        if number:
            worker.shutdown()
    return observations


def test_the_policy_of_nemo_rl_is_counted_on_all_workers_and_across_a_resume(tmp_path: Path) -> None:
    # Not for the processes, which import this file: it takes longer than they train.
    from tests.tiny import save_model

    base = save_model(tmp_path / "base")
    for observations in run_together(train_with_nemo_rl, 2, tmp_path):
        for number, observation in enumerate(observations):
            assert_counted(observation, base, tmp_path / f"weights-{number}")
    assert [each.step for each in recorded_in(tmp_path / "run", "observation")] == [1, 2, 3, 4]
    assert [each.outcome for each in recorded_in(tmp_path / "run", "finish")] == [pb.Finish.OUTCOME_FINISHED]
