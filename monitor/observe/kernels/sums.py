"""The sums of a fingerprint, by compiled loops where numba is there."""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from monitor.observe.borrowed import borrow

logger = logging.getLogger(__name__)


def compiled_sums(visible: torch.Tensor, first: int) -> torch.Tensor | None:
    """Return what base/fingerprint.py's `weight_sums` does of weights in host memory, the first of this index.

    None where that cannot be compiled.
    """
    add_sums = _compiled()
    if add_sums is None:
        return None
    signed = torch.int16 if visible.element_size() == 2 else torch.int32
    sums = np.zeros(2, dtype=np.int64)
    add_sums(borrow(visible.detach().reshape(-1)).view(signed).numpy(), first, sums)
    return torch.from_numpy(sums)


@lru_cache
def _compiled() -> Any:
    try:
        from monitor.observe.kernels.numba_sums import add_sums

        for dtype in (np.int16, np.int32):
            add_sums(np.zeros(0, dtype=dtype), 0, np.zeros(2, dtype=np.int64))
    except ImportError:
        return None
    except Exception:
        # A compiler has many ways to fail, and there is another way to sum.
        logger.warning("sparsity-monitor sums up fingerprints without numba, which fails here", exc_info=True)
        return None
    return add_sums
