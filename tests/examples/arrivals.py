"""What must hold of every example: what the service has is what was trained, each step once and in order."""

from __future__ import annotations

from pathlib import Path

from monitor.wire import monitor_pb2 as pb
from tests.counting import changed_by_group
from tests.eventually import eventually
from tests.service.running import Client


def even_length(prompts: list[str], completions: list[str], **_: object) -> list[float]:
    """An outcome, 1 or 0, that an untrained model gets right about half of the time."""
    return [float(len(completion) % 2 == 0) for completion in completions]


def assert_the_run_arrived(client: Client, run_id: str, base: Path, final: Path, steps: int) -> None:
    eventually(lambda: client.is_over(run_id))
    run = client.run(run_id)
    assert (run.state, run.last_step, run.observations) == (pb.RunSummary.STATE_FINISHED, steps, steps)
    items = [entry.item for entry in client.history(run_id)]
    assert [item.observation.step for item in items if item.HasField("observation")] == list(range(1, steps + 1))
    finishes = [item.finish.outcome for item in items if item.HasField("finish")]
    assert finishes == [pb.Finish.OUTCOME_FINISHED]

    last = [item.observation for item in items if item.HasField("observation")][-1]
    groups = run.registration.groups
    layers = [f"{group.layer:02d}" if group.HasField("layer") else "-" for group in groups]
    reported = {
        (layer, group.module): changed for layer, group, changed in zip(layers, groups, last.changed, strict=True)
    }
    assert reported == changed_by_group(base, final)
    assert sum(reported.values()) > 0


def logged(client: Client, run_id: str) -> list[dict[str, float]]:
    """What was logged at each step."""
    items = [entry.item for entry in client.history(run_id)]
    return [dict(item.training_log.metrics) for item in items if item.HasField("training_log")]
