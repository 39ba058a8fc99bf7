"""Host memory that is looked at without owning it, or leaving a trace on who does.

`tensor.numpy()` marks the tensor's storage: it can never be resized again, however short the array lives. FSDP and
offloading resize the storages of live weights.
"""

from __future__ import annotations

import ctypes

import torch


def borrow(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor over the same host memory, in a storage of its own that does not keep the memory alive.

    It must not be used any more once the memory may be gone.
    """
    span = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)) + 1
    if not tensor.numel():
        return tensor.new_empty(tensor.shape)
    memory = (ctypes.c_byte * (span * tensor.element_size())).from_address(tensor.data_ptr())
    return torch.frombuffer(memory, dtype=tensor.dtype).as_strided(tensor.shape, tensor.stride())
