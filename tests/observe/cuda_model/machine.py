"""The machine: its GPUs and their streams, in place of torch.cuda."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from tests.observe.cuda_model.launches import Launcher
from tests.observe.cuda_model.memory import Memory
from tests.observe.cuda_model.order import Event, Order, Stream
from tests.observe.cuda_model.tensors import ModelTensor, OnModel

_TRITON_KERNEL = "monitor.observe.kernels.gpu"
_TRITON_MEASURE = "monitor.observe.kernels.triton_tiles.measure"


class CudaModel:
    """A machine with GPUs, while it is entered.

    Args:
        devices: number of GPUs.
        triton: whether there is Triton; without it, the monitor measures by operations of torch.
    """

    def __init__(self, devices: int = 1, *, triton: bool = True) -> None:
        self.order = Order()
        self.memory = Memory(self.order)
        self._triton = triton
        self._device = 0
        self._streams = [self._stream("the training's stream", i) for i in range(devices)]
        self._made = 0
        self._mode = OnModel(self)
        self._patches = pytest.MonkeyPatch()
        self._doing: list[str] = []
        self.order.doing = lambda: f" in {self._doing[-1]}" if self._doing else ""

    def __enter__(self) -> CudaModel:
        for name, replacement in {
            "Stream": self._make_stream,
            "Event": lambda **_: Event(self.order),
            "current_stream": self.current_stream,
            "current_device": lambda: self._device,
            "default_stream": lambda device=None: self._streams[self._index(device)],
            "stream": self._on_stream,
            "device": self._on_device,
            "synchronize": self._synchronize,
            "is_available": lambda: True,
            "_lazy_init": lambda: None,
        }.items():
            self._patches.setattr(torch.cuda, name, replacement)
        self._patches.setattr(torch.Tensor, "pin_memory", lambda tensor, device=None: self._pin(tensor))
        if self._triton:
            self._patches.setattr(_TRITON_MEASURE, Launcher(self))
        else:
            self._patches.setitem(sys.modules, _TRITON_KERNEL, None)
        self._mode.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._mode.__exit__(*raised)
        self._patches.undo()

    @property
    def faults(self) -> list[str]:
        """What might go wrong on a GPU with what was done until now."""
        return list(self.order.faults)

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Say what the code in this context is about, for what is said of a fault."""
        self._doing.append(what)
        try:
            yield
        finally:
            self._doing.pop()

    @contextmanager
    def nobody_waits(self) -> Iterator[None]:
        """Forbid the host to wait for the device."""
        before, self.order.may_wait = self.order.may_wait, False
        try:
            yield
        finally:
            self.order.may_wait = before

    def tensor(self, values: torch.Tensor, name: str, device: int = 0) -> ModelTensor:
        """Return a tensor on a GPU with these values, allocated on its current stream."""
        inner = values.detach().clone()
        stream = self.current_stream(torch.device("cuda", device))
        return ModelTensor(inner, self.memory.allocate(name, inner, stream), self)

    def current_stream(self, device: torch.device | int | str | None = None) -> Stream:
        """As torch.cuda.current_stream."""
        return self._streams[self._index(device)]

    def _index(self, device: torch.device | int | str | None) -> int:
        if device is None or isinstance(device, int):
            return self._device if device is None else device
        index = torch.device(device).index
        return self._device if index is None else index

    def _stream(self, name: str, index: int) -> Stream:
        return Stream(f"{name} of cuda:{index}", torch.device("cuda", index), self.order)

    def _make_stream(self, device: torch.device | int | str | None = None, priority: int = 0) -> Stream:
        self._made += 1
        return self._stream(f"stream {self._made}", self._index(device))

    @contextmanager
    def _on_stream(self, stream: Stream) -> Iterator[None]:
        index = self._index(stream.device)
        with self._on_device(index):
            before, self._streams[index] = self._streams[index], stream
            try:
                yield
            finally:
                self._streams[index] = before

    @contextmanager
    def _on_device(self, device: torch.device | int | str) -> Iterator[None]:
        before, self._device = self._device, self._index(device)
        try:
            yield
        finally:
            self._device = before

    def _synchronize(self, device: torch.device | int | str | None = None) -> None:
        self.order.host_waits("torch.cuda.synchronize", self.current_stream(device).clock)

    def _pin(self, tensor: torch.Tensor) -> torch.Tensor:
        inner = tensor.detach().clone()
        return ModelTensor(inner, self.memory.pin("a pinned copy", inner), self)
