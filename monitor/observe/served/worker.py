"""What an engine's worker answers when it is asked what it serves; vLLM's names, as read in its source of 2026.

`LLM.collective_rpc` calls a function with each worker. A server calls methods alone, by name: it has this one where it
is started with `--worker-extension-cls monitor.observe.served.worker.WorkerExtension`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from monitor.observe.criterion import parse_visible_dtype
from monitor.observe.served.fingerprint import numbers_of, parameters_in
from monitor.observe.served.slices import engine_slices


def fingerprint_of_worker(worker: Any, visible_dtype: str, sizes: Mapping[str, int]) -> dict[str, int]:
    """Return `monitor.fingerprint` of what one worker of vLLM serves, under the names of the model that trains.

    Args:
        worker: a vllm.v1.worker.worker_base.WorkerBase.
        visible_dtype: that of the run.
        sizes: name → number of weights of each parameter of the model that trains. What would have another number is
            left out: the worker holds a part of it in a way that `engine_slices` does not know.
    """
    ranks = worker.parallel_config.tensor_parallel_size
    # Its global rank, in which tensor parallelism is the innermost dimension.
    slices = engine_slices(worker.model_config.hf_text_config, rank=worker.rank % ranks, ranks=ranks)
    placed = parameters_in(worker.get_model().named_parameters(), slices)
    known = {name: each for name, each in placed.items() if math.prod(each.shape) == sizes.get(name, -1)}
    return numbers_of(known, parse_visible_dtype(visible_dtype))


class WorkerExtension:
    """Gives vLLM's workers the method that a server is asked for."""

    def sparsity_monitor_fingerprint(self, visible_dtype: str, sizes: Mapping[str, int]) -> dict[str, int]:
        """Return `fingerprint_of_worker` of this worker."""
        return fingerprint_of_worker(self, visible_dtype, sizes)
