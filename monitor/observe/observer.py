"""UpdateObserver: holds base and masks of a model, and counts its weight updates in any PyTorch loop."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from monitor.errors import UnsupportedModelError
from monitor.observe.arguments import check_arguments, check_model, check_step, path_from, paths_from
from monitor.observe.base.fingerprint import fingerprint
from monitor.observe.base.kept import KeptBase
from monitor.observe.base.mode import BaseMode, parse_base_mode
from monitor.observe.base.weights import GivenBase, differing, find
from monitor.observe.changes import ADVICE, Changes, describe
from monitor.observe.comparison import Comparison, MaskAside
from monitor.observe.criterion import Criterion, check_tolerances, dtype_name, parse_visible_dtype
from monitor.observe.kernels.contract import Bind, Counts, Rules
from monitor.observe.masks.file import MaskMetadata
from monitor.observe.masks.mask import UpdateMask
from monitor.observe.masks.references import ReferenceMask, ReferenceMasks
from monitor.observe.masks.touched_files import read_shards, write_shards
from monitor.observe.masks.whole import save_whole_mask, whole_mask
from monitor.observe.measurement import Measurement
from monitor.observe.observation import IntArray, Observation
from monitor.observe.ranks import NOTES, Ranks
from monitor.observe.state import MonitorState
from monitor.observe.stopwatch import Stopwatch
from monitor.observe.streams import Pass, stream_for
from monitor.observe.tally import Tally
from monitor.observe.user_warning import warn_user
from monitor.observe.weights.groups import Group
from monitor.observe.weights.measured import MeasuredWeights
from monitor.observe.weights.roster import Roster


@dataclass(frozen=True)
class _Started:
    """An observation whose counts may still be on their way."""

    step: int
    stride: int
    observed_at: float
    host_seconds: float
    running: Pass
    shape: tuple[int, int]
    roster: Roster


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
            and uses a module, and what the model holds below its adapters, where it is. That must not be written to, as
            by merging into it: its weights are then reported as unmeasured.
        first_step: step that the current weights belong to.
        process_group: the processes that train together, of torch.distributed; by default all of the default group.
            All of them must make the observer, at the same point, and call the same methods with the same steps in the
            same order; `is_first` tells which one reports. Give it where only some processes train, as beside those
            that generate: on these only. Nothing else may use it at the same time as the observer.
        ranks: the same, where they have been joined.
        bind: makes what measures the weights; by default the fastest that there is where they are.

    Attributes:
        base_fingerprint: 32 hexadecimal digits that name the visible base weights.

    Raises:
        ConfigurationError: a setting has a value that cannot work, or not all processes make the observer.
        BaseMismatchError: the base lacks a parameter, or has another shape.
        MaskMismatchError: a reference mask lacks a parameter, or has another shape.
        UnsupportedModelError: the model holds weights in a way that cannot be measured rightly.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        base: GivenBase | None = None,
        references: Mapping[str, ReferenceMask] | None = None,
        criterion: str | Criterion = "bits",
        tolerances: Sequence[float] = (),
        visible_dtype: str | torch.dtype = "bfloat16",
        include: Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
        step_masks: bool = True,
        base_mode: str = "auto",
        first_step: int = 0,
        process_group: dist.ProcessGroup | None = None,
        ranks: Ranks | None = None,
        bind: Bind | None = None,
    ) -> None:
        check_arguments(model, base, references, first_step)
        self.rules = _rules(visible_dtype, criterion, tolerances)
        mode = parse_base_mode(base_mode, self.rules.visible_dtype)
        roster = Roster.of_model(model, include, exclude, ranks, process_group)
        if base is not None and (moved := differing(base, roster.frozen, roster.ranks)):
            # Frozen now, but not always, as after a resume.
            roster = roster.with_late(moved)
        found = roster.ranks.all_or_none(lambda: find(base, roster.measured))
        self.base_fingerprint = fingerprint(found, roster.selected, self.rules.visible_dtype, roster.ranks)
        masks = ReferenceMasks(references or {}, roster, self.base_fingerprint)
        kept = KeptBase(found, base, roster, mode, self.rules.visible_dtype, step_masks=step_masks)
        self._state = MonitorState(roster, kept, masks, self.rules, step_masks=step_masks)
        self._bind = bind
        self._measurement = roster.ranks.all_or_none(lambda: Measurement(roster, self._state, self.rules, bind))
        self._roster, self._ranks = roster, roster.ranks
        self._tally = self._tally_of(roster)
        self._changes = Changes(roster, kept.in_place)
        self._stream = stream_for(roster.measured[0].source.device)
        self._stopwatch = Stopwatch()
        self._started: list[_Started] = []
        self._last_step = first_step
        self._last_start: float | None = None
        self._last_cost = 0.0
        self._left_out = 0
        self._looked_for_new_after = first_step - 1
        if self._stream.beside_training:
            # What `compare` measures with is compiled now, not at the first checkpoint.
            self._ranks.all_or_none(lambda: MaskAside(roster, self._state, self.rules, bind))
        if base is not None:
            # What differs from it already has not moved at the first observation.
            self._ranks.all_or_none(self._measurement.measure)

    def follow(self, model: nn.Module) -> None:
        """Take up the parameters that have become trainable: what they are now is their base.

        Call it before an optimizer step, wherever `requires_grad` may have been switched, in all processes alike.
        Parameters that train no more are measured on. Those that were added are named in a warning and not counted.
        """
        check_model(model)
        with self._stopwatch:
            # Once for each observation: it takes a walk through the whole model.
            if self._looked_for_new_after != self._last_step:
                self._looked_for_new_after = self._last_step
                self._roster.warn_of_new(model)
            thawed, moved = self._roster.thawed()
            if thawed or moved:
                # A pass that is under way still reads the tables that are made anew here.
                self._stream.hold_training()
                thawed, moved = self._told_apart(thawed, moved)
        if moved:
            self._exchange(self._changes.with_late_ones(self._roster, moved))
        if thawed:
            # Not a cost of this step, as the start is none: it may compile for half a minute.
            self._take_up(thawed)

    def _told_apart(self, thawed: Sequence[str], moved: Sequence[str]) -> tuple[list[str], list[str]]:
        """Return which of these are what they were while frozen, and which were written to, on whichever process."""
        names = sorted([*thawed, *moved])
        # By their sums, too: fused optimizers write without raising the version.
        here = self._ranks.all_or_none(lambda: [*moved, *self._changes.untouched.moved(thawed)])
        found = self._ranks.anywhere(here, names)
        return [name for name in names if name not in found], found

    def _take_up(self, thawed: Sequence[str]) -> None:
        self._changes.untouched.forget(thawed)
        roster = self._roster.with_late(thawed)
        # Where one process has no memory for them, the others must not wait for its counts.
        late = [weights for weights in roster.late if weights.name in set(thawed)]
        self._ranks.all_or_none(lambda: self._state.take_up(late))
        self._exchange(roster)

    def _exchange(self, roster: Roster) -> None:
        """Measure what is on another roster from now on."""
        self._roster = roster
        self._check_that_something_is_left()
        self._measurement = self._ranks.all_or_none(lambda: Measurement(roster, self._state, self.rules, self._bind))
        self._tally = self._tally_of(roster)

    def _check_that_something_is_left(self) -> None:
        if not self._roster.measured:
            raise UnsupportedModelError(
                f"nothing is left to measure: {describe(self._roster.lost)}. {ADVICE} The training itself is not "
                "affected."
            )

    def _tally_of(self, roster: Roster) -> Tally:
        ones, step_masks = self._state.references.ones, self._state.touched is not None
        return Tally(roster, self.rules, ones, step_masks=step_masks)

    def _look_again(self) -> None:
        """Follow the model to where its parameters are now, in all processes alike."""
        self._stream.hold_training()
        roster = self._changes.look_again(self._roster)
        if adapted := roster.adapted:
            self._roster = roster
            self._take_up(adapted)
        else:
            self._exchange(roster)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name → shape of each parameter that is measured; masks have the same ones, in the same order."""
        return self._roster.shapes

    @property
    def ranks(self) -> Ranks:
        """The processes that train together."""
        return self._ranks

    @property
    def is_first(self) -> bool:
        """Whether this is the first of the processes that train together: the one that reports."""
        return self._ranks.rank == 0

    @property
    def measured(self) -> list[MeasuredWeights]:
        """What this process measures."""
        return self._roster.measured

    @property
    def base_mode(self) -> BaseMode:
        """How the base is kept."""
        return self._state.base.mode

    @property
    def visible_dtype(self) -> str:
        """Name of the dtype that weights are compared in."""
        return dtype_name(self.rules.visible_dtype)

    @property
    def stored_dtypes(self) -> tuple[str, ...]:
        """dtypes that the measured weights are stored in, sorted by name."""
        return tuple(sorted({dtype_name(weights.source.dtype) for weights in self._roster.measured}))

    @property
    def measures_adapters(self) -> bool:
        """Whether some of the measured weights are what adapters make of frozen ones: of these the matrix counts."""
        return bool(self._roster.computed)

    @property
    def groups(self) -> tuple[Group, ...]:
        """The group table: every array of an observation follows its order."""
        return self._roster.table.groups

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

    def save_touched(self, directory: str | Path) -> None:
        """Write which weights were touched so far, for `restore`: each process what it measures itself.

        Before that, what must not be written to is looked at, all of it.
        All processes must call it, with the same directory.
        """
        directory = path_from(directory, "directory")
        self._look_for_moved()
        if self._state.touched is not None:
            self.before_update()
            write_shards(directory, self._ranks, self._state.touched, self._roster.measured, vars(self._metadata))

    def restore(self, directories: Sequence[str | Path]) -> bool:
        """Go on from the current weights: they are what the next observation is compared with.

        Args:
            directories: where `save_touched` may have written at this step; the first that has it counts.

        Returns:
            whether one has. Otherwise what differs from the base now is all that is known to have been touched.
        """
        paths = paths_from(directories, "directories")
        self.before_update()
        self._ranks.all_or_none(self._measurement.measure)
        if self._state.touched is None:
            return True
        shards = self._ranks.all_or_none(lambda: self._read_touched(paths))
        # Decided together, so that none of the model is counted in another way than the rest.
        found = self._ranks.all_say(shards is not None)
        for name, known in self._state.masks.items():
            self._state.touched[name].copy_(known)
            if found and shards is not None and name in shards:
                self._state.touched[name] |= shards[name].to(known.device)
        return found

    def _read_touched(self, directories: Sequence[Path]) -> dict[str, torch.Tensor] | None:
        found = (read_shards(path, self._ranks, self._roster.measured, vars(self._metadata)) for path in directories)
        return next((shards for shards in found if shards is not None), None)

    @property
    def _metadata(self) -> MaskMetadata:
        return MaskMetadata(
            criterion=str(self.rules.criterion),
            visible_dtype=self.visible_dtype,
            base_fingerprint=self.base_fingerprint,
            step=self._last_step,
        )

    def compare(self, step: int, given: Mapping[str, torch.Tensor] | None = None) -> Comparison:
        """Compare weights with the base, and leave the masks and counts of the observations as they are.

        Among several processes all must call it. It waits for the device.

        Args:
            step: optimizer step that the weights belong to.
            given: parameter name → whole weights to be compared; None for those that the model holds now.
        """
        self.before_update()
        replaced = self._changes.seen(self._roster, moved_in_memory=self._measurement.look())
        if not self._ranks.all_say(not replaced):
            self._look_again()
        self._look_for_moved()
        aside = self._ranks.all_or_none(lambda: MaskAside(self._roster, self._state, self.rules, self._bind))
        nothing = torch.zeros(NOTES, dtype=torch.int64, device="cpu")
        sent = self._ranks.send(lambda: aside.measure(given), nothing, *aside.shape, step)
        counts, _ = self._ranks.receive(sent.cpu(), *aside.shape)
        as_observed = self._ranks.all_say(aside.is_as_observed())
        return Comparison(step, self.groups, self._tally.changed(counts), as_observed, aside.words)

    def save_update_mask(self, path: Path | None, run_id: str = "", of: Comparison | None = None) -> None:
        """Write the update mask of the whole model to a file that `UpdateMask.load` reads, parameter by parameter.

        Before that, what must not be written to is looked at, all of it.
        Among several processes all must call it. The first one writes, and only there `path` matters.

        Args:
            path: the file.
            run_id: to be kept with the mask.
            of: weights that were compared, whose mask is written; None for those of the latest observation.

        Raises:
            OSError: the file cannot be written.
        """
        self._look_for_moved()
        self.before_update()
        words, step = (self._state.masks, self._last_step) if of is None else (of.words, of.step)
        metadata = replace(self._metadata, step=step, run_id=run_id)
        save_whole_mask(path, words, self._roster.measured, metadata, self._ranks)

    def _copy_mask(self, words: Mapping[str, torch.Tensor]) -> UpdateMask:
        self.before_update()
        return whole_mask(words, self._roster.measured, self._metadata, self._ranks)

    @property
    def monitor_bytes(self) -> int:
        """Bytes that base, masks, previous weights and reference masks take, on whichever device.

        A base that is there anyway takes none, such as a reference model, or what the model has below its adapters.
        """
        return self._state.held_bytes

    def observe(self, step: int) -> Observation:
        """Compare the weights with the base and with the previous observation, and update the masks.

        Args:
            step: optimizer step after which the weights are looked at; greater than at the previous call.

        Raises:
            ValueError: `step` does not rise.
        """
        started = self._begin(step)
        observation = self._finish(started)
        if observation is None:
            self._look_again()
            observation = self._finish(self._pass(started.step, started.stride))
        if observation is None:
            raise UnsupportedModelError(f"parameters of the model are replaced while it is observed. {ADVICE}")
        return observation

    @property
    def beside_training(self) -> bool:
        """Whether `start` returns before the observation is made, as it does on CUDA."""
        return self._stream.beside_training

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
        with self._stopwatch:
            self._stream.hold_training()

    def collect(self) -> list[Observation]:
        """Return the observations that were started and not collected yet, oldest first; waits for them."""
        started, self._started = self._started, []
        finished = [self._finish(observation) for observation in started]
        if None in finished:
            self._look_again()
            self._leave_out([each for each, found in zip(started, finished, strict=True) if found is None])
        return [observation for observation in finished if observation is not None]

    def _begin(self, step: int) -> _Started:
        step = check_step(step, self._last_step)
        started = self._pass(step, step - self._last_step + self._left_out)
        self._last_step, self._left_out = step, 0
        return started

    def _leave_out(self, started: Sequence[_Started]) -> None:
        """Say which observations are missing; the next one covers their steps."""
        self._left_out += sum(each.stride for each in started)
        warn_user(
            f"left out: the observation of step {', '.join(str(each.step) for each in started)}, because a process "
            "found only then that parameters are not where they were. The next one covers its steps. Parameters are "
            "best replaced on all processes at once."
        )

    def _pass(self, step: int, stride: int) -> _Started:
        now = time.perf_counter()
        seconds = (self._last_cost, now - self._last_start) if self._last_start else (0.0, 0.0)
        observed_at = time.time()
        self._check_that_something_is_left()
        with self._stopwatch:
            replaced = self._changes.seen(self._roster, moved_in_memory=self._measurement.look())
            if not self._stream.beside_training:
                # Agreed on before anybody measures: masks that were updated cannot be taken back.
                replaced = not self._ranks.all_say(not replaced)
        if replaced and (self._ranks.world == 1 or not self._stream.beside_training):
            # No cost of this step: it may compile.
            self._look_again()
            replaced = False
        notes = torch.tensor([*(round(1e9 * value) for value in seconds), int(replaced), 0], device="cpu")

        def count() -> torch.Tensor:
            there = notes
            if self._stream.beside_training:
                # Made on the pass's own stream: made on the training's, it would be reused before it is read.
                there = notes.pin_memory().to(self._roster.measured[0].source.device, non_blocking=True)
            return self._count(self._measurement, there, step, replaced=replaced)

        with self._stopwatch:
            running = self._stream.start(count)
        shape, host_seconds = self._measurement.shape, self._stopwatch.take()
        started = _Started(step, stride, observed_at, host_seconds, running, shape, self._roster)
        self._last_start = now
        return started

    def _count(self, measurement: Measurement, notes: torch.Tensor, step: int, *, replaced: bool) -> torch.Tensor:
        def measure() -> Counts:
            if replaced:
                # All processes must first hear that parameters are not where they were.
                return measurement.nothing()
            counts = measurement.measure()
            if (moved := self._changes.untouched.count_moved()) is not None:
                notes[-1] += moved.to(notes.device, non_blocking=True)
            return counts

        return self._ranks.send(measure, notes, *measurement.shape, step)

    def _look_for_moved(self) -> None:
        roster = self._changes.look_for_moved(self._roster)
        if roster.lost != self._roster.lost:
            self._stream.hold_training()
            self._exchange(roster)

    def _finish(self, started: _Started) -> Observation | None:
        """Return the observation; None where a process has seen that parameters are not where they were."""
        began = time.perf_counter()
        counts, (cost, interval, replaced, moved) = self._ranks.receive(started.running.result(), *started.shape)
        host_seconds = started.host_seconds + time.perf_counter() - began
        device_seconds = started.running.device_seconds()
        self._last_cost = host_seconds + device_seconds if self._stream.beside_training else host_seconds
        if replaced:
            return None
        tally = self._tally
        if moved:
            self._look_for_moved()
        if started.roster is not self._roster:
            counts, tally = self._without_lost(counts, started.roster)
        return tally.observation(
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

    def _without_lost(self, counts: Counts, roster: Roster) -> tuple[Counts, Tally]:
        """Return the counts of a pass over what was on a roster without what is lost since, and what adds them up."""
        lost = {**roster.lost, **self._roster.lost}
        rows = torch.tensor([name not in lost for name in roster.shapes], device="cpu")
        tally = self._tally_of(roster.without(lost))
        return Counts(counts.integers[rows], counts.floats[rows]), tally


def _rules(visible_dtype: str | torch.dtype, criterion: str | Criterion, tolerances: Sequence[float]) -> Rules:
    return Rules(parse_visible_dtype(visible_dtype), Criterion.parse(criterion), check_tolerances(tolerances))
