"""What an engine serves, compared with a model that is spread over processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

import monitor
from tests.parallel.models import make_model, spread, train_step
from tests.parallel.processes import run_together
from tests.parallel.test_placement import snapshot

# Processes of their own, which one server forks.
pytestmark = pytest.mark.xdist_group("parallel")


def serve_together(directory: Path) -> dict[str, Any]:
    """Train two steps, of which the second does not reach the engine."""
    model = spread(make_model(), "fsdp2")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    found = []
    with monitor.watch(model, None, output_dir=directory) as watch:
        for step in (1, 2):
            train_step(model, optimizer, step)
            watch.step(step)
            trained = snapshot(model)
            if step == 1:
                engine = monitor.fingerprint(trained)
            # Only the first process knows what is served.
            found.append(watch.served(engine if dist.get_rank() == 0 else {}))
        wrong = watch.served("nothing" if dist.get_rank() == 0 else {})  # type: ignore[arg-type]
        kept = watch.fingerprint()
    own = monitor.fingerprint(model.named_parameters())
    return {"found": found, "wrong": wrong, "kept": kept, "own": own, "trained": trained}


def test_every_process_tells_the_same_of_the_whole_model(tmp_path: Path) -> None:
    first, second = run_together(serve_together, 2, tmp_path)
    assert first["found"] == second["found"]
    assert first["kept"] == second["kept"] == monitor.fingerprint(first["trained"])
    assert first["wrong"] is second["wrong"] is None
    fresh, stale = first["found"]
    assert (fresh.step, fresh.is_expected, fresh.only_trained, fresh.only_served) == (1, True, (), ())
    assert (stale.step, stale.expected_step) == (1, 2)
    # The shards that each process gives of its DTensors add up.
    assert {name: (first["own"][name] + second["own"][name]) % 2**64 for name in first["own"]} == first["kept"]
