"""What is kept of an experiment that has finished: what the monitor observed, as JSON beside its mask and weights."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from monitor import Observation, UpdateMask
from paper.experiments import Experiment, Scale, Subnetwork

RESULT_FILE = "result.json"
MASK_FILE = Path("sparsity_monitor", "update_mask.safetensors")
WEIGHTS_FOLDER = "final"


@dataclass(frozen=True)
class GroupCounts:
    """Counts of one group at the last observation, in weights."""

    layer: int | None
    module: str
    trained: int
    changed: int


@dataclass(frozen=True)
class Result:
    """An experiment that has finished.

    Attributes:
        settings: those of experiment and scale; a result is one of an experiment if these are the same.
        run_id: of the monitored run.
        seconds: that the training took.
        processor_seconds: of these, what its process had of a core.
        right_answers: share of sampled answers that are right afterwards, 0 to 1.
        step: the last one.
        trained, changed, step_changed, touched, hidden: weights at the last observation.
        changed_at: tolerance as text → weights that differ from the base by more.
        norm: of the visible update.
        groups: changed weights by layer and module.
        curve: step, cumulative sparsity and step sparsity of the observations.
    """

    settings: Mapping[str, Any]
    run_id: str
    seconds: float
    processor_seconds: float
    right_answers: float
    step: int
    trained: int
    changed: int
    step_changed: int
    touched: int
    hidden: int
    changed_at: Mapping[str, int]
    norm: float
    groups: tuple[GroupCounts, ...]
    curve: tuple[tuple[int, float, float], ...]
    directory: Path

    @property
    def sparsity(self) -> float:
        """Cumulative sparsity by bits in bfloat16, 0 to 1."""
        return 1 - self.changed / self.trained

    @property
    def experiment(self) -> Experiment:
        """The experiment that this is the result of."""
        settings = self.settings["experiment"]
        return Experiment(**settings | {"only": settings["only"] and Subnetwork(**settings["only"])})

    def mask(self) -> "UpdateMask":
        """Read the update mask that the run left."""
        from monitor import UpdateMask

        return UpdateMask.load(self.directory / MASK_FILE)


def settings_of(experiment: Experiment, scale: Scale) -> dict[str, Any]:
    """Return what a result has to agree in."""
    return {"experiment": asdict(experiment), "scale": asdict(scale)}


def write_result(
    directory: Path,
    settings: Mapping[str, Any],
    run_id: str,
    seconds: tuple[float, float],
    right_answers: float,
    *,
    last: "Observation",
    curve: list[tuple[int, float, float]],
) -> None:
    """Write a result; it appears only when it is complete, and says that the experiment need not be repeated.

    Args:
        seconds: that the training took, and what its process had of a core.
    """
    assert last.step_changed is not None
    assert last.touched is not None
    groups = [
        GroupCounts(group.layer, group.module, group.trained_weights, int(changed))
        for group, changed in zip(last.groups, last.changed, strict=True)
    ]
    content = {
        "settings": settings,
        "run_id": run_id,
        "seconds": seconds[0],
        "processor_seconds": seconds[1],
        "right_answers": right_answers,
        "step": last.step,
        "trained": last.trained_weights,
        "changed": int(last.changed.sum()),
        "step_changed": int(last.step_changed.sum()),
        "touched": int(last.touched.sum()),
        "hidden": int(last.hidden.sum()),
        "changed_at": {f"{tolerance:g}": int(counts.sum()) for tolerance, counts in last.changed_at.items()},
        "norm": last.update_norm,
        "groups": [asdict(group) for group in groups],
        "curve": curve,
    }
    partial = directory / f".{RESULT_FILE}.partial"
    partial.write_text(json.dumps(content, indent=1))
    partial.replace(directory / RESULT_FILE)


def read_result(directory: Path) -> Result | None:
    """Return the result that is in a directory, None where the experiment has not finished."""
    path = directory / RESULT_FILE
    if not path.exists():
        return None
    content = json.loads(path.read_text())
    groups = tuple(GroupCounts(**group) for group in content.pop("groups"))
    curve = tuple(tuple(point) for point in content.pop("curve"))
    return Result(**content, groups=groups, curve=curve, directory=directory)
