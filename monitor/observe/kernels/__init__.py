"""One contract (contract.py), one specification (reference.py), and an implementation for each kind of device."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from functools import lru_cache, partial

from torch.torch_version import TorchVersion

from monitor.observe.chunk_sizes import WEIGHTS_IN_REFERENCE
from monitor.observe.kernels import numpy_loops, reference
from monitor.observe.kernels.contract import Kernel, Rules, Segment
from monitor.observe.kernels.cpu import CpuKernel, Loops, Widths, compile_loops, widths_of
from monitor.observe.kernels.in_chunks import ReferenceInChunks
from monitor.observe.kernels.several_devices import SeveralDevices
from monitor.observe.kernels.streamed_base import StreamedBase

logger = logging.getLogger(__name__)

_LONG_SECONDS = 2.0
# The interpreter of 3.2 miscounts: what it sums up in int32 stays int64, and is stored over the words that follow. What
# 3.2 compiles for GPUs nobody has compared with the specification.
LOWEST_TRITON = "3.3"


def kernel_for(segments: Sequence[Segment], rules: Rules) -> Kernel:
    """Return the fastest kernel for segments where they are, bound to them and compiled.

    What was compiled before, in this process or another, is not compiled again.
    """
    devices = {segment.current.device for segment in segments}
    if len(devices) > 1:
        return SeveralDevices(segments, rules, kernel_for)
    if any(segment.base.device not in devices for segment in segments):
        return StreamedBase(segments, rules, kernel_for)
    kind = devices.pop().type if devices else "cpu"
    if kind == "cpu":
        return CpuKernel(segments, rules, _loops_for(widths_of(segments, rules)))
    return _for_gpu(segments, rules) if kind == "cuda" else partial(reference.measure, segments, rules)


def _for_gpu(segments: Sequence[Segment], rules: Rules) -> Kernel:
    try:
        import triton

        if TorchVersion(triton.__version__) >= LOWEST_TRITON:
            from monitor.observe.kernels.gpu import TritonKernel

            return TritonKernel(segments, rules)
        _warn_once(
            f"sparsity-monitor measures many times slower, as it does not trust triton {triton.__version__} to count. "
            f"Install triton {LOWEST_TRITON} or newer; torch brings one from 2.7 on"
        )
    except ImportError:
        _warn_once("sparsity-monitor measures many times slower without triton; install the extra `triton`")
    except Exception as error:
        logger.debug("the kernel for GPUs fails", exc_info=True)
        _warn_once(
            "sparsity-monitor measures many times slower, as triton fails here. It wants a C compiler and the headers "
            f"of Python, which not every image has. {error!r}"
        )
    return ReferenceInChunks(segments, rules, WEIGHTS_IN_REFERENCE)


@lru_cache
def _warn_once(message: str) -> None:
    """Say something that is found out again for each chunk of a base in host memory."""
    logger.warning(message)


@lru_cache
def _loops_for(widths: frozenset[Widths]) -> Loops:
    """Return the fastest loops that can be had for weights of these widths, compiled."""
    try:
        from monitor.observe.kernels import numba_loops

        started = time.perf_counter()
        for each in widths:
            compile_loops(numba_loops, each)
        _say_that_it_took_long(time.perf_counter() - started, numba_loops.measure.stats.cache_path)
    except ImportError:
        logger.info("sparsity-monitor measures several times faster on the CPU with numba: the extra `fast`")
        return numpy_loops
    except Exception:
        # A compiler has many ways to fail, and there is another way to measure.
        logger.warning("sparsity-monitor measures without numba, which fails here", exc_info=True)
        return numpy_loops
    return numba_loops


def _say_that_it_took_long(seconds: float, cache: str | None) -> None:
    if seconds < _LONG_SECONDS:
        return
    if cache is not None:
        logger.info(
            "sparsity-monitor has compiled what measures on the CPU, once, in %.0f s; kept in %s", seconds, cache
        )
    else:
        logger.warning(
            "sparsity-monitor has compiled what measures on the CPU in %.0f s, and will again at each start: neither "
            "the package's directory nor a cache in the home directory can be written. Set NUMBA_CACHE_DIR to a "
            "directory that can.",
            seconds,
        )
