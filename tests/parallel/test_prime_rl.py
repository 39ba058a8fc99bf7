"""examples/prime_rl_train.py against a stand-in of prime-rl's loop, with FSDP2 on two processes."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import monitor
from monitor.wire import monitor_pb2 as pb
from tests.parallel import prime_rl_stand_in
from tests.parallel.processes import run_together
from tests.parallel.sharded import assert_counted, assert_refused_at_once, import_example
from tests.spooled import recorded_in

pytestmark = pytest.mark.xdist_group("parallel")


def train_with_prime_rl(directory: Path, cpu_offload: bool) -> list[Any]:
    """Train two steps, and two more from the checkpoint of the second; then one as if it had been saved unobserved."""
    prime_rl_stand_in.install()
    example = import_example("prime_rl_train")
    watches = _watches(example)
    config = prime_rl_stand_in.TrainerConfig(directory, 2, str(directory / "base"), optim_cpu_offload=cpu_offload)
    # Without `clean_exit`, after which there is no process group any more.
    train = example.train.__wrapped__
    train(config)
    train(replace(config, max_steps=4, resume_step=2))
    if torch.distributed.get_rank() == 0:
        shutil.rmtree(directory / "checkpoints" / "step_2" / "trainer" / "sparsity_monitor")
    torch.distributed.barrier()
    train(replace(config, max_steps=3, resume_step=2))
    with pytest.raises(AssertionError, match="full_offload"):
        train(replace(config, full_offload=True))
    assert_refused_at_once(lambda: train(replace(config, model_name="none")))
    return [each.last_observation for each in watches]


class Checked:
    """Checks the settings with the target that the test has."""

    @staticmethod
    def check(**kwargs: Any) -> None:
        monitor.Watch.check(target=None, **kwargs)


def _watches(example: Any) -> list[monitor.Watch]:
    """Gather what the example makes in this process."""
    made: list[monitor.Watch] = []

    class Recorded:
        Watch = Checked

        @staticmethod
        def watch(*args: Any, **kwargs: Any) -> monitor.Watch:
            made.append(monitor.watch(*args, strict=True, target=None, **kwargs))
            return made[-1]

    example.monitor = Recorded
    return made


@pytest.mark.parametrize("cpu_offload", [False, True])
def test_prime_rl_is_counted_on_all_ranks_and_across_a_resume(cpu_offload: bool, tmp_path: Path) -> None:
    # Not for the processes, which import this file: it takes longer than they train.
    from tests.tiny import save_model

    base = save_model(tmp_path / "base")
    for observations in run_together(train_with_prime_rl, 2, tmp_path, cpu_offload):
        assert [each.step for each in observations] == [2, 4, 3]
        for observation in observations:
            assert_counted(observation, base, tmp_path / f"weights-{observation.step}")
    steps = [each.step for each in recorded_in(tmp_path, "observation")]
    assert steps == [1, 2, 3, 4, 3]
    assert {each.outcome for each in recorded_in(tmp_path, "finish")} == {pb.Finish.OUTCOME_FINISHED}
