"""One contract (contract.py), one specification (reference.py), and an implementation for each kind of device."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import lru_cache

from monitor.observe.kernels import numpy_loops, reference
from monitor.observe.kernels.contract import Kernel, Rules, Segment
from monitor.observe.kernels.cpu import CpuKernel
from monitor.observe.kernels.in_pieces import InPieces
from monitor.observe.kernels.several_devices import SeveralDevices
from monitor.observe.kernels.streamed_base import StreamedBase

logger = logging.getLogger(__name__)

# Weights; the specification makes some 60 bytes of each.
_PIECE_OF_REFERENCE = 4 << 20


def kernel_for(segments: Sequence[Segment], rules: Rules) -> Kernel:
    """Return the fastest kernel for segments where they are; what must be compiled is compiled."""
    devices = {segment.current.device for segment in segments}
    if len(devices) > 1:
        spread = SeveralDevices(kernel_for)
        spread.prepare(segments, rules)
        return spread
    if any(segment.base.device not in devices for segment in segments):
        streamed = StreamedBase(kernel_for)
        streamed.prepare(segments, rules)
        return streamed
    kind = devices.pop().type if devices else "cpu"
    if kind == "cpu":
        return _for_cpu(segments, rules)
    return _for_gpu(segments, rules) if kind == "cuda" else reference.measure


def _for_gpu(segments: Sequence[Segment], rules: Rules) -> Kernel:
    try:
        from monitor.observe.kernels.gpu import TritonKernel

        kernel = TritonKernel()
        kernel.prepare(segments, rules)
    except ImportError:
        _warn_once("sparsity-monitor measures many times slower without triton; install the extra `triton`")
    except Exception as error:
        logger.debug("triton fails", exc_info=True)
        _warn_once(
            "sparsity-monitor measures many times slower, as triton fails here. It wants a C compiler and the headers "
            f"of Python, which not every image has. {error!r}"
        )
    else:
        return kernel
    # In pieces, because the specification makes many intermediates of the size of what it is given.
    return InPieces(reference.measure, _PIECE_OF_REFERENCE)


@lru_cache
def _warn_once(message: str) -> None:
    """Say something that is found out again for each piece of a base in host memory."""
    logger.warning(message)


def _for_cpu(segments: Sequence[Segment], rules: Rules) -> Kernel:
    try:
        from monitor.observe.kernels import numba_loops

        kernel = CpuKernel(numba_loops)
        kernel.prepare(segments, rules)
    except ImportError:
        logger.info("sparsity-monitor measures several times faster on the CPU with numba: the extra `fast`")
        return CpuKernel(numpy_loops)
    except Exception:
        # A compiler has many ways to fail, and there is another way to measure.
        logger.warning("sparsity-monitor measures without numba, which fails here", exc_info=True)
        return CpuKernel(numpy_loops)
    return kernel
