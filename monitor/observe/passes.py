"""Passes: starts a pass over a model's weights, and makes an observation of what it counted in all processes."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from monitor.observe.followed import FollowedModel
from monitor.observe.kernels.contract import Counts
from monitor.observe.observation import Observation
from monitor.observe.stopwatch import Stopwatch
from monitor.observe.streams import Pass, Stream
from monitor.observe.weights.roster import Roster


@dataclass(frozen=True)
class Started:
    """An observation whose counts may still be on their way."""

    step: int
    stride: int
    observed_at: float
    host_seconds: float
    running: Pass
    shape: tuple[int, int]
    roster: Roster


class Passes:
    """The passes over one model, one after the other. All processes must make the same ones.

    Args:
        model: the model.
        stream: where the passes run.
        stopwatch: what the monitor costs the calling thread from one pass to the next, besides them.
    """

    def __init__(self, model: FollowedModel, stream: Stream, stopwatch: Stopwatch) -> None:
        self._model, self._stream, self._stopwatch = model, stream, stopwatch
        self._ranks = model.roster.ranks
        self._last_start: float | None = None
        self._last_cost = 0.0

    def start(self, step: int, stride: int) -> Started:
        """Begin a pass. Where passes run beside training, this does not wait for the device.

        Raises:
            UnsupportedModelError: nothing is left to measure.
        """
        now = time.perf_counter()
        seconds = (self._last_cost, now - self._last_start) if self._last_start else (0.0, 0.0)
        observed_at = time.time()
        self._model.check_that_something_is_left()
        with self._stopwatch:
            replaced = self._model.is_replaced()
            if not self._stream.beside_training:
                # Agreed on before anybody measures: masks that were updated cannot be taken back.
                replaced = not self._ranks.all_say(not replaced)
        if replaced and (self._ranks.world == 1 or not self._stream.beside_training):
            # No cost of this step: it may compile.
            self._model.look_again()
            replaced = False
        notes = torch.tensor([*(round(1e9 * value) for value in seconds), int(replaced), 0], device="cpu")

        def count() -> torch.Tensor:
            there = notes
            if self._stream.beside_training:
                # Made on the pass's own stream: made on the training's, it would be reused before it is read.
                there = notes.pin_memory().to(self._model.roster.measured[0].source.device, non_blocking=True)
            return self._count(there, step, replaced=replaced)

        with self._stopwatch:
            running = self._stream.start(count)
        shape, host_seconds = self._model.measurement.shape, self._stopwatch.take()
        self._last_start = now
        return Started(step, stride, observed_at, host_seconds, running, shape, self._model.roster)

    def _count(self, notes: torch.Tensor, step: int, *, replaced: bool) -> torch.Tensor:
        measurement = self._model.measurement

        def measure() -> Counts:
            if replaced:
                # All processes must first hear that parameters are not where they were.
                return measurement.nothing()
            counts = measurement.measure()
            if (moved := self._model.count_moved()) is not None:
                notes[-1] += moved.to(notes.device, non_blocking=True)
            return counts

        return self._ranks.send(measure, notes, *measurement.shape, step)

    def finish(self, started: Started) -> Observation | None:
        """Return the observation; None where a process has seen that parameters are not where they were."""
        began = time.perf_counter()
        counts, (cost, interval, replaced, moved) = self._ranks.receive(started.running.result(), *started.shape)
        host_seconds = started.host_seconds + time.perf_counter() - began
        device_seconds = started.running.device_seconds()
        self._last_cost = host_seconds + device_seconds if self._stream.beside_training else host_seconds
        if replaced:
            return None
        tally = self._model.tally
        if moved:
            self._model.look_for_moved()
        if started.roster is not self._model.roster:
            counts, tally = self._model.without_lost(counts, started.roster)
        return tally.observation(
            counts,
            step=started.step,
            stride=started.stride,
            observed_at=started.observed_at,
            host_seconds=host_seconds,
            device_seconds=device_seconds,
            overhead=cost / interval if interval else None,
            monitor_bytes=self._model.state.held_bytes,
            base_mode=self._model.state.base.mode,
        )
