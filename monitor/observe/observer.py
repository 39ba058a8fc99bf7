"""UpdateObserver: holds base and masks of a model, and counts its weight updates in any PyTorch loop."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from monitor.errors import ConfigurationError
from monitor.observe.base import weights as base_weights
from monitor.observe.base.mode import BaseMode, parse_base_mode
from monitor.observe.criterion import Criterion, check_tolerance, dtype_name, parse_visible_dtype
from monitor.observe.kernels import kernel_for
from monitor.observe.kernels.contract import FIXED_COLUMNS, Counts, Kernel, Rules, Segment
from monitor.observe.masks.file import MaskMetadata
from monitor.observe.masks.mask import UpdateMask
from monitor.observe.masks.references import ReferenceMask, ReferenceMasks
from monitor.observe.masks.touched_files import read_part, write_part
from monitor.observe.masks.whole import save_whole_mask, whole_mask
from monitor.observe.observation import IntArray, Observation
from monitor.observe.ranks import Alone, join_ranks
from monitor.observe.state import MonitorState
from monitor.observe.stopwatch import Clock
from monitor.observe.streams import Pass, lane_for
from monitor.observe.tally import Tally
from monitor.observe.weights.frozen import FrozenParameters
from monitor.observe.weights.groups import Group, GroupTable
from monitor.observe.weights.measured import MeasuredWeights
from monitor.observe.weights.placement import place
from monitor.observe.weights.selection import select_parameters


@dataclass(frozen=True)
class _Started:
    """An observation whose counts may still be on their way."""

    step: int
    stride: int
    observed_at: float
    host_seconds: float
    running: Pass
    shape: tuple[int, int]
    tally: Tally


class UpdateObserver:
    """Counts how a model's weights differ from a frozen base.

    Call `observe(step)` after `optimizer.step()`. Live weights are only read. On CUDA, `start(step)` after the step,
    `before_update()` before the next one and `collect()` some time later do the same beside the training.

    >>> model = nn.Linear(2, 2, bias=False)
    >>> observer = UpdateObserver(model)
    >>> with torch.no_grad():
    ...     model.weight[0, 0] += 1.0
    >>> observation = observer.observe(step=1)
    >>> int(observation.changed.sum()), observation.cumulative_sparsity
    (1, 0.75)

    Args:
        model: the model that trains.
        base: None takes the weights as they are now, and where adapters train, the frozen ones below them. A module is
            used in place, without a copy, and must stay frozen. A state dict under the model's parameter names is
            copied to the weights' devices.
        references: name → mask of another run, or a structural one; it must cover every trainable parameter. An
            UpdateMask, or a MaskFile, of which each process reads what it measures.
        criterion: "bits" or "atol=1e-5"; what counts as changed in the update mask.
        tolerances: `changed` is counted at each of these, too.
        visible_dtype: dtype that the trained model will be served in; weights are rounded to it, then compared.
        include, exclude: regular expressions searched for in parameter names.
        step_masks: compare with the previous observation, too. Holds one more byte and bit per weight (4 bytes where
            the visible dtype is float32); a changed 16-bit weight that moves on by a multiple of 256 representable
            steps is missed.
        base_mode: where the base is kept: "device", "host", "low_byte", see BaseMode; "auto" chooses by free memory,
            and uses a module where it is.
        first_step: step that the current weights belong to.
        ranks: the processes that train together; by default all of the default process group.

    Attributes:
        base_fingerprint: 32 hexadecimal digits that name the visible base weights.

    Raises:
        ConfigurationError: a setting has a value that cannot work.
        BaseMismatchError: the base lacks a parameter, or has another shape.
        MaskMismatchError: a reference mask lacks a parameter, or has another shape.
        UnsupportedModelError: the model holds weights in a way that cannot be measured rightly.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        base: nn.Module | Mapping[str, torch.Tensor] | None = None,
        references: Mapping[str, ReferenceMask] | None = None,
        criterion: str | Criterion = "bits",
        tolerances: Sequence[float] = (),
        visible_dtype: str | torch.dtype = "bfloat16",
        include: Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
        step_masks: bool = True,
        base_mode: str = "auto",
        first_step: int = 0,
        ranks: Alone | None = None,
    ) -> None:
        self.rules = Rules(
            parse_visible_dtype(visible_dtype),
            Criterion.parse(criterion),
            tuple(check_tolerance(tolerance, "a tolerance") for tolerance in tolerances),
        )
        if len(set(self.rules.tolerances)) < len(self.rules.tolerances):
            raise ConfigurationError(f"tolerances are {list(tolerances)}; expected each one once.")
        selection = select_parameters(model, include, exclude)
        self._ranks = ranks or join_ranks(next(iter(selection.trainable.values())).device)
        placed = place(model, {**selection.trainable, **selection.frozen}, self._ranks, selection.served)
        self._placed = {weights.name: weights for weights in placed}
        self._frozen = FrozenParameters(model, selection.frozen)
        measured = [weights for weights in placed if weights.name in selection.trainable]
        self._stored = [weights for weights in measured if weights.effective is None]
        self._computed = [weights for weights in measured if weights.effective is not None]
        self._measured = [*self._stored, *self._computed]
        self.shapes = {weights.name: weights.shape for weights in self._measured}
        originals = self._ranks.alike(lambda: base_weights.find(base, self._measured, self.shapes))
        self.base_fingerprint = base_weights.fingerprint(
            originals, self._measured, self.rules.visible_dtype, self._ranks
        )
        frozen = [weights for weights in placed if weights.name in selection.frozen]
        self._state = MonitorState(
            self._measured,
            originals,
            base,
            parse_base_mode(base_mode, self.rules.visible_dtype),
            ReferenceMasks(references or {}, self._measured, frozen, self.base_fingerprint, self._ranks),
            rules=self.rules,
            step_masks=step_masks,
            ranks=self._ranks,
        )
        self._last_step = first_step
        self._last_start: float | None = None
        self._last_cost = 0.0
        self._clock = Clock()
        self._looked_for_new_after = first_step - 1
        self._started: list[_Started] = []
        self._lane = lane_for(self._measured[0].source.device)
        self._ranks.alike(self._prepare)
        self._prepare_tally()
        if base is not None and selection.frozen:
            self._measure_what_trained_before(base)
        if base is not None:
            # What differs from it already has not moved at the first observation.
            self._ranks.alike(self._measure)

    def _prepare(self) -> None:
        """Make what follows from the set of measured parameters."""
        self._table = GroupTable.build(
            (name, math.prod(weights.shape), name not in self.shapes) for name, weights in self._placed.items()
        )
        self._segments = self._build_segments()
        self._kernel = kernel_for(self._segments, self.rules)
        self._kernel_for_computed = self._prepare_computed()
        self._monitor_bytes = self._state.held_bytes()

    def _prepare_tally(self) -> None:
        ones = self._state.references.count(self._measured)
        self._tally = Tally(self._table, self._measured, self.rules, ones, step_masks=self._state.touched is not None)

    def follow(self, model: nn.Module) -> None:
        """Take up the parameters that have become trainable: what they are now is their base.

        Call it before an optimizer step, wherever `requires_grad` may have been switched, in all processes alike.
        Parameters that train no more are measured on. Those that were added are named in a warning and not counted.
        """
        with self._clock:
            # Once for each observation: it takes a walk through the whole model.
            if self._looked_for_new_after != self._last_step:
                self._looked_for_new_after = self._last_step
                self._frozen.warn_of_new(model)
            if thawed := self._frozen.thawed():
                # A pass that is under way still reads the tables that are made anew here.
                self._lane.hold_training()
                self._measure_too([self._placed[name] for name in thawed], None)

    def _measure_what_trained_before(self, base: nn.Module | Mapping[str, torch.Tensor]) -> None:
        """Measure frozen parameters that differ from a given base, such as those that trained before a resume."""
        frozen = [weights for weights in self._placed.values() if weights.name not in self.shapes]
        moved = self._ranks.sum_of(lambda: base_weights.differing(base, frozen)).tolist()
        if late := [weights for weights, differs in zip(frozen, moved, strict=True) if differs]:
            self._frozen.take(weights.name for weights in late)
            self._measure_too(late, base)

    def _measure_too(self, late: list[MeasuredWeights], base: nn.Module | Mapping[str, torch.Tensor] | None) -> None:
        # Where one process has no memory for them, the others must not wait for its counts.
        self._ranks.alike(lambda: self._hold_too(late, base))
        self._prepare_tally()

    def _hold_too(self, late: list[MeasuredWeights], base: nn.Module | Mapping[str, torch.Tensor] | None) -> None:
        shapes = {weights.name: weights.shape for weights in late}
        originals = base_weights.find(base, late, shapes)
        mode = BaseMode.DEVICE if base is None and self.base_mode is BaseMode.SHARED else self.base_mode
        self._state.take_up(late, originals, mode)
        self._stored += late
        self._measured = [*self._stored, *self._computed]
        self.shapes = {weights.name: weights.shape for weights in self._measured}
        self._prepare()

    @property
    def base_mode(self) -> BaseMode:
        """How the base is kept."""
        return self._state.base_mode

    @property
    def visible_dtype(self) -> str:
        """Name of the dtype that weights are compared in."""
        return dtype_name(self.rules.visible_dtype)

    @cached_property
    def stored_dtypes(self) -> tuple[str, ...]:
        """dtypes that the measured weights are stored in, sorted by name."""
        return tuple(sorted({dtype_name(weights.source.dtype) for weights in self._measured}))

    @property
    def groups(self) -> tuple[Group, ...]:
        """The group table: every array of an observation follows its order."""
        return self._table.groups

    @property
    def reference_weights(self) -> dict[str, IntArray]:
        """|R| per group of each reference mask, frozen parameters included."""
        return self._tally.reference_weights

    def update_mask(self) -> UpdateMask:
        """Return a copy of the update mask, in host memory.

        Among several processes all must call it; the first one gets the mask of the whole model, the others one of no
        parameters.
        """
        return self._copy_mask(self._state.masks)

    def touched_mask(self) -> UpdateMask | None:
        """Return the union of all step masks so far, as `update_mask` does; None when step masks are off."""
        return None if self._state.touched is None else self._copy_mask(self._state.touched)

    def save_touched(self, directory: Path) -> None:
        """Write which weights were touched so far, for `restore`: each process what it measures itself.

        All processes must call it, with the same directory.
        """
        if self._state.touched is not None:
            self.before_update()
            write_part(directory, self._ranks, self._state.touched, self._measured, vars(self._metadata))

    def restore(self, directories: Sequence[Path]) -> bool:
        """Go on from the current weights: they are what the next observation is compared with.

        Args:
            directories: where `save_touched` may have written at this step; the first that has it counts.

        Returns:
            whether one has. Otherwise what differs from the base now is all that is known to have been touched.
        """
        self.before_update()
        self._ranks.alike(self._measure)
        if self._state.touched is None:
            return True
        parts = self._ranks.alike(lambda: self._read_touched(directories))
        # Decided together, so that no part of the model is counted in another way than the rest.
        found = self._ranks.all_say(parts is not None)
        for name, known in self._state.masks.items():
            self._state.touched[name].copy_(known)
            if found and parts is not None and name in parts:
                self._state.touched[name] |= parts[name].to(known.device)
        return found

    def _read_touched(self, directories: Sequence[Path]) -> dict[str, torch.Tensor] | None:
        found = (read_part(path, self._ranks, self._measured, vars(self._metadata)) for path in directories)
        return next((parts for parts in found if parts is not None), None)

    @property
    def _metadata(self) -> MaskMetadata:
        return MaskMetadata(
            criterion=str(self.rules.criterion),
            visible_dtype=self.visible_dtype,
            base_fingerprint=self.base_fingerprint,
            step=self._last_step,
        )

    def save_update_mask(self, path: Path | None, run_id: str = "") -> None:
        """Write the update mask of the whole model to a file that `UpdateMask.load` reads, parameter by parameter.

        Among several processes all must call it. The first one writes, and only there `path` matters.

        Raises:
            OSError: the file cannot be written.
        """
        self.before_update()
        metadata = replace(self._metadata, run_id=run_id)
        save_whole_mask(path, self._state.masks, self._measured, metadata, self._ranks)

    def _copy_mask(self, words: Mapping[str, torch.Tensor]) -> UpdateMask:
        self.before_update()
        return whole_mask(words, self._measured, self._metadata, self._ranks)

    @property
    def monitor_bytes(self) -> int:
        """Bytes that base, masks, previous weights and reference masks take, on whichever device.

        A base that is there anyway takes none, such as a reference model, or what the model has below its adapters.
        """
        return self._monitor_bytes

    def observe(self, step: int) -> Observation:
        """Compare the weights with the base and with the previous observation, and update the masks.

        Args:
            step: optimizer step after which the weights are looked at; greater than at the previous call.

        Raises:
            ValueError: `step` does not rise.
        """
        return self._finish(self._begin(step))

    @property
    def beside_training(self) -> bool:
        """Whether `start` returns before the observation is made, as it does on CUDA."""
        return self._lane.beside_training

    @property
    def last_step(self) -> int:
        """Step of the latest observation, started or made; `first_step` before the first."""
        return self._last_step

    def start(self, step: int) -> None:
        """Begin what `observe` does, without waiting for the device; `collect` returns the observation.

        On CUDA it is made beside what the training does next. `before_update` must be called before weights change.

        Raises:
            ValueError: `step` does not rise.
        """
        self._started.append(self._begin(step))

    def before_update(self) -> None:
        """Let the training's stream wait until the weights have been read. The host does not wait."""
        with self._clock:
            self._lane.hold_training()

    def collect(self) -> list[Observation]:
        """Return the observations that were started and not collected yet, oldest first; waits for them."""
        started, self._started = self._started, []
        return [self._finish(observation) for observation in started]

    def _begin(self, step: int) -> _Started:
        if step <= self._last_step:
            raise ValueError(f"step is {step}, and the previous observation was at {self._last_step}; steps must rise.")
        now = time.perf_counter()
        seconds = (self._last_cost, now - self._last_start) if self._last_start else (0.0, 0.0)
        notes = torch.tensor([round(1e9 * value) for value in seconds], device="cpu")

        def count() -> torch.Tensor:
            there = notes
            if self._lane.beside_training:
                # Made on the lane's stream: made on the training's, it would be reused before it is read.
                there = notes.pin_memory().to(self._measured[0].source.device, non_blocking=True)
            return self._ranks.send(self._measure, there, *self._counts_shape)

        observed_at = time.time()
        with self._clock:
            running = self._lane.start(count)
        started = _Started(
            step, step - self._last_step, observed_at, self._clock.take(), running, self._counts_shape, self._tally
        )
        self._last_step, self._last_start = step, now
        return started

    def _finish(self, started: _Started) -> Observation:
        began = time.perf_counter()
        counts, (cost, interval) = self._ranks.receive(started.running.result(), *started.shape)
        host_seconds = started.host_seconds + time.perf_counter() - began
        device_seconds = started.running.device_seconds()
        self._last_cost = host_seconds + device_seconds if self._lane.beside_training else host_seconds
        return started.tally.observation(
            counts,
            step=started.step,
            stride=started.stride,
            observed_at=started.observed_at,
            host_seconds=host_seconds,
            device_seconds=device_seconds,
            overhead=cost / interval if interval else None,
            monitor_bytes=self.monitor_bytes,
            base_mode=self.base_mode,
        )

    @property
    def _counts_shape(self) -> tuple[int, int]:
        return len(self._measured), FIXED_COLUMNS + len(self.rules.tolerances) + len(self._state.references.words)

    def _measure(self) -> Counts:
        """Measure what is stored in one pass, then what adapters make one by one: never do two of these exist."""
        if not self._computed:
            return self._kernel(self._current_segments(), self.rules)
        parts = [self._kernel(self._current_segments(), self.rules)] if self._stored else []
        for weights in self._computed:
            # A copy, because a kernel remembers the segments that it was given, and so would keep the weights alive.
            kernel = copy.copy(self._kernel_for_computed)
            parts.append(kernel([self._state.segment(weights, weights.live())], self.rules))
        device = parts[0].integers.device
        return Counts(
            torch.cat([counts.integers.to(device) for counts in parts]),
            torch.cat([counts.floats.to(device) for counts in parts]),
        )

    def _prepare_computed(self) -> Kernel:
        """Return the kernel for weights that adapters make, prepared with the base's, which are of the same kind."""
        smallest = sorted((w for w in self._computed if w.count), key=lambda w: w.count)[::-1]
        kinds = {(w.source.dtype, w.source.device, w.original is None): w for w in smallest}
        return kernel_for([self._state.segment(w, w.of_whole(w.source)) for w in kinds.values()], self.rules)

    def _current_segments(self) -> Sequence[Segment]:
        # Wrappers exchange a parameter's storage (`parameter.data = …`); what was built once then looks elsewhere.
        addresses = [weights.source.data_ptr() for weights in self._stored]
        if addresses != self._addresses:
            self._segments = self._build_segments()
        return self._segments

    def _build_segments(self) -> list[Segment]:
        self._addresses = [weights.source.data_ptr() for weights in self._stored]
        return [self._state.segment(weights, weights.live()) for weights in self._stored]
