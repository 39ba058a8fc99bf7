"""What a trainer's own logs show of an observation, and so W&B, TensorBoard and Trackio."""

from __future__ import annotations

from monitor.observe.observation import Observation

TRACKER_PREFIX = "sparsity/"


def tracker_entries(observation: Observation | None) -> dict[str, float]:
    """Return entries for a trainer's log; none before the first observation."""
    if observation is None:
        return {}
    entries = {
        "cumulative_sparsity": observation.cumulative_sparsity,
        "step_sparsity": observation.step_sparsity,
        "update_norm": observation.update_norm,
    }
    for name in observation.references:
        overlap = observation.overlap(name)
        entries |= {f"overlap_o1/{name}": overlap.o1, f"overlap_lift/{name}": overlap.lift}
    return {TRACKER_PREFIX + name: value for name, value in entries.items() if value is not None}
