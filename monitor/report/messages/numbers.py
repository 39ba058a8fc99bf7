"""The numbers in what a trainer logs, whatever holds them: Python, NumPy, torch on any device.

Taken in the training thread, because a tensor may be overwritten afterwards, and without waiting for a GPU.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, Protocol


class Waited(Protocol):
    """An event of a device."""

    def synchronize(self) -> object: ...


class Coming:
    """A number on its way from a device; `float` waits for it, in the writer thread.

    Args:
        copy: a tensor of one element in host memory, that the device writes to.
        written: is over when it has.
    """

    def __init__(self, copy: Any, written: Waited) -> None:
        self._copy = copy
        self._written = written

    def __float__(self) -> float:
        self._written.synchronize()
        return float(self._copy.item())


Number = float | Coming


def numbers_in(logs: Mapping[str, object]) -> dict[str, Number]:
    """Return the entries that hold one number. Infinities and NaN stay: they are news.

    >>> from fractions import Fraction
    >>> numbers_in({"loss": 0.5, "epoch": 1, "note": "text", "flag": True, "share": Fraction(1, 4), "several": [1, 2]})
    {'loss': 0.5, 'epoch': 1.0, 'flag': 1.0, 'share': 0.25}
    """
    found = ((name, number_in(value)) for name, value in logs.items())
    return {name: number for name, number in found if number is not None}


def number_in(value: object) -> Number | None:
    """Return the one number that a value holds; None if it holds none, or several."""
    if isinstance(value, Coming):
        return value
    if isinstance(value, str | bytes | bytearray) or value is None:
        return None
    try:
        if hasattr(value, "to_local"):
            # A DTensor: all processes would have to take part in reading it, and only the first one reports.
            return None
        if (kind := _device_of(value)) not in (None, "cpu"):
            return None if kind == "meta" else _on_its_way(value)
        item: Callable[[], object] | None = getattr(value, "item", None)
        return _as_float(value if item is None else item())
    except Exception:  # noqa: BLE001 (what others' classes raise when they hold no number is not ours to know)
        return None


def _as_float(value: object) -> float | None:
    # Not `float(text)`, which would read it.
    return float(value) if hasattr(value, "__float__") else None


def _device_of(value: object) -> str | None:
    """Return the kind of device that a torch tensor is on; None of anything else."""
    return getattr(getattr(value, "device", None), "type", None)


def _on_its_way(tensor: Any) -> Coming | None:
    """Copy a tensor's one element to the host, behind what its device does now; the host goes on."""
    if tensor.numel() != 1:
        return None
    # This package does not import torch, which the uploader has not. Who has a tensor has loaded it.
    device = sys.modules["torch"].get_device_module(tensor.device)
    # Into pinned memory, as torch does where a copy must not block.
    copy = tensor.detach().to("cpu", non_blocking=True)
    return Coming(copy, device.current_stream(tensor.device).record_event())
