"""Where a pass runs: at once on the calling thread, or on a CUDA stream beside the training."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch


class Pass(Protocol):
    """A pass that has been started."""

    def result(self) -> torch.Tensor:
        """Return what the pass left, in host memory; waits for it."""

    def device_seconds(self) -> float:
        """Return the time that it took on the device; known when the result is."""


class Lane(Protocol):
    """Runs passes in order."""

    # Whether `start` returns before the pass is done.
    beside_training: bool

    def start(self, work: Callable[[], torch.Tensor]) -> Pass:
        """Run `work`, which returns one tensor of int64."""

    def hold_training(self) -> None:
        """Let what the training does from here on wait until the weights have been read."""


@dataclass
class _Done:
    tensor: torch.Tensor
    seconds: float

    def result(self) -> torch.Tensor:
        return self.tensor

    def device_seconds(self) -> float:
        return self.seconds


class AtOnce:
    """For weights in host memory."""

    beside_training = False

    def start(self, work: Callable[[], torch.Tensor]) -> Pass:
        """Run `work` to its end."""
        started = time.perf_counter()
        tensor = work().cpu()
        return _Done(tensor, time.perf_counter() - started)

    def hold_training(self) -> None:
        """Do nothing: a pass that was started is done."""


@dataclass
class _OnItsWay:
    host: torch.Tensor
    begin: torch.cuda.Event
    end: torch.cuda.Event

    def result(self) -> torch.Tensor:
        # Usually past, as the training stream waits for it before the next optimizer step. A host that is a whole step
        # ahead of its GPU waits here, so that all processes have the same counts at the same step.
        self.end.synchronize()
        return self.host

    def device_seconds(self) -> float:
        self.end.synchronize()
        return float(self.begin.elapsed_time(self.end)) / 1e3


class OnStream:
    """On a CUDA stream: after what the training has queued until now, beside what it queues from now on.

    The host never waits when a pass is started. What the pass left goes to pinned memory.
    """

    beside_training = True

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        # An observer that is dropped gives its memory back to the stream that it was made on, which would write there
        # while a pass is still at work. Not at exit: nothing is written any more, and CUDA may be gone.
        home = torch.cuda.current_stream(device)
        weakref.finalize(self, home.wait_stream, self._stream).atexit = False

    def start(self, work: Callable[[], torch.Tensor]) -> Pass:
        """Queue `work` and the copy of its result."""
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            begin.record(self._stream)
            tensor = work()
            host = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=True)
            host.copy_(tensor, non_blocking=True)
            end.record(self._stream)
        return _OnItsWay(host, begin, end)

    def hold_training(self) -> None:
        """Let the current stream wait for the passes; the host does not."""
        torch.cuda.current_stream(self._device).wait_stream(self._stream)


def lane_for(device: torch.device) -> Lane:
    """Return the lane for weights on this device."""
    return OnStream(device) if device.type == "cuda" else AtOnce()
