"""Where the base lives, and in how many bytes per weight: chosen by the user, or by the memory that is free."""

from __future__ import annotations

import logging
import math
import os
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

import torch

from monitor.errors import ConfigurationError, shown
from monitor.observe.criterion import dtype_name
from monitor.observe.kernels import low_byte
from monitor.observe.ranks import Ranks
from monitor.observe.weights.measured import MeasuredWeights

logger = logging.getLogger(__name__)

# A gradient and two moments for each trained weight, which are not there yet when the base is taken.
_COPIES_TO_COME = 3
_BITS_PER_BYTE = 8
_CONTROL_GROUP = Path("/sys/fs/cgroup")


class BaseMode(StrEnum):
    """How the base is kept.

    DEVICE: a copy beside the weights.
    HOST: a copy in pinned host memory, which comes to the device chunk by chunk at every observation.
    SHARED: the weights of a module that is there anyway.
    LOW_BYTE: one byte per weight, where the visible dtype has 16 bits. The value is found again as the nearest one with
        that byte: exactly, unless a weight moved by 128 or more representable steps.
    """

    DEVICE = "device"
    HOST = "host"
    SHARED = "shared"
    LOW_BYTE = "low_byte"


_FRUGALITY = (BaseMode.SHARED, BaseMode.DEVICE, BaseMode.HOST, BaseMode.LOW_BYTE)


def parse_base_mode(mode: str, visible_dtype: torch.dtype) -> BaseMode | None:
    """Return the mode; None for "auto".

    Raises:
        ConfigurationError: it is no mode, or one that this visible dtype cannot have.
    """
    choices = (BaseMode.DEVICE, BaseMode.HOST, BaseMode.LOW_BYTE)
    if mode == "auto":
        return None
    if mode not in choices:
        raise ConfigurationError(f"base_mode is {shown(mode)}; expected one of auto, {', '.join(choices)}.")
    if mode == BaseMode.LOW_BYTE and not low_byte.fits(visible_dtype):
        raise ConfigurationError(
            f"base_mode is 'low_byte', and visible_dtype {visible_dtype}: only 16-bit weights have low bytes. "
            "Compare in bfloat16, or choose another base_mode."
        )
    return BaseMode(mode)


def choose_base_mode(
    measured: Sequence[MeasuredWeights], visible_dtype: torch.dtype, ranks: Ranks, *, shared: bool, step_masks: bool
) -> BaseMode:
    """Choose a base that is there anyway; else by free memory: beside the weights, for a GPU in host memory, low bytes.

    Asked is what the training will want, too: a gradient and two moments for each weight.

    Host memory comes before low bytes because it is exact however far a weight moves.

    Among several processes all must call this, and all choose what suits the one with the least memory: otherwise an
    observation would add up counts that are exact and counts that need not be.

    Args:
        shared: whether this process has the base anyway.
        step_masks: whether there will be previous weights and touched masks, too.
    """
    beside = _bytes_beside(visible_dtype, step_masks=step_masks)
    own = _FRUGALITY.index(BaseMode.SHARED if shared else _by_free_memory(measured, visible_dtype, beside))
    votes = torch.zeros(len(_FRUGALITY), dtype=torch.int64, device="cpu")
    votes[own] = 1
    return _FRUGALITY[int(ranks.sum(votes).nonzero().max())]


def _bytes_beside(visible_dtype: torch.dtype, *, step_masks: bool) -> float:
    """Return the bytes per weight that masks and previous weights will take. Reference masks are there already."""
    masks = 1 + int(step_masks)
    previous = (1 if low_byte.fits(visible_dtype) else visible_dtype.itemsize) if step_masks else 0
    return masks / _BITS_PER_BYTE + previous


def _by_free_memory(measured: Sequence[MeasuredWeights], visible_dtype: torch.dtype, beside: float) -> BaseMode:
    base: Counter[torch.device] = Counter()
    rest: Counter[torch.device] = Counter()
    for weights in measured:
        device, stored = weights.source.device, weights.count * weights.source.element_size()
        base[device] += stored
        rest[device] += stored * _COPIES_TO_COME + math.ceil(weights.count * beside)
    if all(_has_room(device, base[device] + rest[device]) for device in base):
        return BaseMode.DEVICE
    off_host = all(device.type != "cpu" for device in base)
    # Twice, because torch rounds pinned memory up to a power of two.
    if off_host and _has_room(torch.device("cpu"), 2 * base.total()):
        return BaseMode.HOST
    return BaseMode.LOW_BYTE if low_byte.fits(visible_dtype) else BaseMode.DEVICE


def _has_room(device: torch.device, size: int) -> bool:
    free = free_bytes(device)
    # The processes on a machine have a GPU each, and share its host memory. torchrun sets LOCAL_WORLD_SIZE.
    sharing = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if device.type == "cpu" else 1
    return free is None or size * sharing <= free


def free_bytes(device: torch.device) -> int | None:
    """Return the bytes that can still be allocated on a device; None where the system does not say."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + cached)
    known = [free for free in (_free_on_machine(), _free_in_container()) if free is not None]
    return min(known, default=None)


def _free_on_machine() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    available = [line for line in lines if line.startswith("MemAvailable:")]
    return int(available[0].split()[1]) * 1024 if available else None


def _free_in_container() -> int | None:
    """Return what a control group's limit (version 2) leaves; what is over it is killed."""
    try:
        limit = int((_CONTROL_GROUP / "memory.max").read_text())
        used = int((_CONTROL_GROUP / "memory.current").read_text())
        statistics = dict(line.split() for line in (_CONTROL_GROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        # There is none, or its limit is "max".
        return None
    # Files that were read are kept while there is room, such as the checkpoint that the model was loaded from.
    return max(limit - used + int(statistics.get("inactive_file", 0)), 0)


def log_base_mode(mode: BaseMode, base_bytes: int, weights: int) -> None:
    """Say once where the base is, and what it takes."""
    logger.info(
        "sparsity-monitor keeps the base as %r: %.2f bytes per weight", mode.value, base_bytes / max(weights, 1)
    )


def warn_of_no_low_bytes(visible_dtype: torch.dtype) -> None:
    """Say why a base that was to be kept as low bytes takes all of them."""
    logger.warning(
        "sparsity-monitor cannot keep the base as low bytes: none of its weights are values of %s, so that what moves "
        "below that could not be seen. Load the model in that dtype, or keep the base with base_mode='host'.",
        dtype_name(visible_dtype),
    )
