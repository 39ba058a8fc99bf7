"""The settings of `monitor.watch`: those of SparsityCallback, and what a Trainer would have said of its training."""

from __future__ import annotations

from dataclasses import KW_ONLY
from pathlib import Path
from typing import Annotated

import torch.distributed as dist
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from monitor.training.on_dense import OnDense
from monitor.training.settings import RunSettings


@dataclass(frozen=True, eq=False, config=ConfigDict(arbitrary_types_allowed=True, use_attribute_docstrings=True))
class LoopSettings(RunSettings):
    """What can be set about observing a loop of one's own; checked when it is given, not while training."""

    _: KW_ONLY

    on_dense: OnDense = "warn"
    """What to do, once, when updates are dense: "warn" in the log; "stop", after which `step` returns True; call a
    function as f(step=…, observation=…, verdict=…), after which `step` returns True if that does. It is called in every
    process of a parallel training with the same counts, and what it returns must not depend on more than those. None
    does nothing. On a GPU, an observation is seen one step later. NaN and infinite weights are not dense: they stop
    nothing, so no good checkpoint is rotated away."""

    output_dir: str | Path = "."
    """Where the training writes. Spool and mask are kept in `sparsity_monitor` there; a run that is not named has the
    directory's name."""

    resume_from: Annotated[int, Field(ge=0)] | str | Path | None = None
    """The checkpoint that the training goes on from: its directory, into which `save` has written, or a Trainer; or, of
    one that was saved without the monitor, the number of optimizer steps that its weights have made."""

    planned_steps: Annotated[int, Field(ge=0)] = 0
    """Optimizer steps of the whole training; 0 where that is not known. The last one is always observed."""

    learning_rate: float | None = None
    """By which, with name and labels, a training that goes on from a copy is told from the run itself."""

    process_group: dist.ProcessGroup | None = None
    """The processes that train together, of torch.distributed; by default all of the default group. Give it where only
    some processes train, as beside those that generate: on these only."""
