"""UpdateObserver: holds base and masks of a model, and counts its weight updates in any PyTorch loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from monitor.errors import UnsupportedModelError
from monitor.observe.arguments import check_arguments, check_model, check_step, path_from, paths_from
from monitor.observe.base.fingerprint import identify
from monitor.observe.base.kept import KeptBase
from monitor.observe.base.mode import BaseMode, parse_base_mode
from monitor.observe.base.weights import GivenBase, differing, find
from monitor.observe.changes import ADVICE
from monitor.observe.comparison import Comparison, MaskAside
from monitor.observe.criterion import Criterion, check_tolerances, dtype_name, parse_visible_dtype
from monitor.observe.followed import FollowedModel
from monitor.observe.kernels.contract import Bind, Rules
from monitor.observe.masks.mask import UpdateMask
from monitor.observe.masks.references import ReferenceMask, ReferenceMasks, check_references
from monitor.observe.masks.structural import StructuralMask
from monitor.observe.masks_of_model import MasksOfModel
from monitor.observe.observation import FloatArray, IntArray, Observation
from monitor.observe.passes import Passes, Started
from monitor.observe.ranks import Ranks
from monitor.observe.served.of_model import fingerprint_of, sizes_of
from monitor.observe.settings import MeasurementSettings, explained
from monitor.observe.state import MonitorState
from monitor.observe.stopwatch import Stopwatch
from monitor.observe.streams import stream_for
from monitor.observe.user_warning import warn_user
from monitor.observe.weights.groups import Group
from monitor.observe.weights.measured import MeasuredWeights
from monitor.observe.weights.roster import Roster


@explained
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
        references: name → mask of another run, which must cover every trainable parameter: an UpdateMask, or a
            MaskFile, of which each process reads what it measures. Or a structural mask that is made of the base:
            "lowest:0.1", the tenth of each parameter that has the smallest magnitudes, or "random:0.1", a tenth
            anywhere, as the control.
        {settings}
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
        references: Mapping[str, ReferenceMask | StructuralMask | str] | None = None,
        criterion: str | Criterion = MeasurementSettings.criterion,
        tolerances: Sequence[float] = MeasurementSettings.tolerances,
        visible_dtype: str | torch.dtype = MeasurementSettings.visible_dtype,
        include: Sequence[str] | None = MeasurementSettings.include,
        exclude: Sequence[str] | None = MeasurementSettings.exclude,
        step_masks: bool = MeasurementSettings.step_masks,
        base_mode: str = MeasurementSettings.base_mode,
        first_step: int = 0,
        process_group: dist.ProcessGroup | None = None,
        ranks: Ranks | None = None,
        bind: Bind | None = None,
    ) -> None:
        check_arguments(model, base, first_step)
        given_masks = check_references(references)
        self.rules = _rules(visible_dtype, criterion, tolerances)
        mode = parse_base_mode(base_mode, self.rules.visible_dtype)
        roster = Roster.of_model(model, include, exclude, ranks, process_group)
        if base is not None and (moved := differing(base, roster.frozen, roster.ranks)):
            # Frozen now, but not always, as after a resume.
            roster = roster.with_late(moved)
        found = roster.ranks.all_or_none(lambda: find(base, roster.measured))
        self.base_fingerprint, squared_norms = identify(
            found, roster.measured, roster.selected, self.rules.visible_dtype, roster.ranks
        )
        masks = ReferenceMasks(given_masks, roster, found, self.base_fingerprint, self.rules.visible_dtype)
        kept = KeptBase(found, base, roster, mode, self.rules.visible_dtype, step_masks=step_masks)
        self._state = MonitorState(roster, kept, masks, self.rules, step_masks=step_masks)
        self._bind = bind
        self._ranks = roster.ranks
        self._stream = stream_for(roster.measured[0].source.device)
        self._stopwatch = Stopwatch()
        self._model = FollowedModel(roster, self._state, self.rules, bind, self._stream, base_squares=squared_norms)
        self._masks = MasksOfModel(self._model, self.rules, self.base_fingerprint)
        self._passes = Passes(self._model, self._stream, self._stopwatch)
        self._started: list[Started] = []
        self._last_step = first_step
        self._left_out = 0
        self._looked_for_new_after = first_step - 1
        if self._stream.beside_training:
            # What `compare` measures with is compiled now, not at the first checkpoint.
            self._ranks.all_or_none(self._aside)
        if base is not None:
            # What differs from it already has not moved at the first observation.
            self._ranks.all_or_none(self._model.measurement.measure)

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
                self._model.roster.warn_of_new(model)
            thawed, moved = self._model.thawed()
        # Not a cost of this step, as the start is none: it may compile for half a minute.
        self._model.take_up(thawed, moved)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name → shape of each parameter that is measured; masks have the same ones, in the same order."""
        return self._model.roster.shapes

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
        return self._model.roster.measured

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
        return tuple(sorted({dtype_name(weights.source.dtype) for weights in self._model.roster.measured}))

    @property
    def measures_adapters(self) -> bool:
        """Whether some of the measured weights are what adapters make of frozen ones: of these the matrix counts."""
        return bool(self._model.roster.computed)

    @property
    def groups(self) -> tuple[Group, ...]:
        """The group table: every array of an observation follows its order."""
        return self._model.roster.table.groups

    @property
    def base_squared_norm(self) -> FloatArray:
        """Σ|θ₀|² per group of the visible base weights that are measured, over finite ones."""
        return self._model.tally.base_squared_norm

    @property
    def reference_weights(self) -> dict[str, IntArray]:
        """|R| per group of each reference mask, frozen parameters included."""
        return self._model.tally.reference_weights

    def update_mask(self) -> UpdateMask:
        """Return a copy of the update mask, in host memory.

        Among several processes all must call it; the first one gets the mask of the whole model, the others one of no
        parameters.
        """
        self.before_update()
        return self._masks.copy(self._state.masks, self._last_step)

    def touched_mask(self) -> UpdateMask | None:
        """Return the union of all step masks so far, as `update_mask` does; None when step masks are off."""
        if self._state.touched is None:
            return None
        self.before_update()
        return self._masks.copy(self._state.touched, self._last_step)

    def save_touched(self, directory: str | Path) -> None:
        """Write which weights were touched so far, for `restore`: each process what it measures itself.

        Before that, what must not be written to is looked at, all of it.
        All processes must call it, with the same directory.
        """
        directory = path_from(directory, "directory")
        self._model.look_for_moved()
        self.before_update()
        self._masks.write_touched(directory, self._last_step)

    def restore(self, directories: Sequence[str | Path]) -> bool:
        """Go on from the current weights: they are what the next observation is compared with.

        Args:
            directories: where `save_touched` may have written at this step; the first that has it counts.

        Returns:
            whether one has. Otherwise what differs from the base now is all that is known to have been touched.
        """
        paths = paths_from(directories, "directories")
        self.before_update()
        self._ranks.all_or_none(self._model.measurement.measure)
        return self._masks.take_up_touched(paths, self._last_step)

    def compare(self, step: int, given: Mapping[str, torch.Tensor] | None = None) -> Comparison:
        """Compare weights with the base, and leave the masks and counts of the observations as they are.

        Among several processes all must call it. It waits for the device.

        Args:
            step: optimizer step that the weights belong to.
            given: parameter name → whole weights to be compared; None for those that the model holds now.
        """
        self.before_update()
        if not self._ranks.all_say(not self._model.is_replaced()):
            self._model.look_again()
        self._model.look_for_moved()
        return self._ranks.all_or_none(self._aside).compare(step, given, self._model.tally)

    def fingerprint(self) -> dict[str, int]:
        """Return `monitor.fingerprint` of the visible weights as they are now, the same in every process.

        Among several processes all must call it. It waits for the device. Frozen parameters have theirs, too; lost ones
        have none. Those with several names have it under the first; `tied` has the others.
        """
        self.before_update()
        if not self._ranks.all_say(not self._model.is_replaced()):
            self._model.look_again()
        return fingerprint_of(self._model.roster, self.rules.visible_dtype)

    @property
    def tied(self) -> dict[str, str]:
        """The other names of parameters that have several → the name here."""
        return self._model.roster.tied

    @property
    def sizes(self) -> dict[str, int]:
        """Name → number of weights of each parameter, frozen ones included, under all of its names."""
        return sizes_of(self._model.roster)

    def _aside(self) -> MaskAside:
        return MaskAside(self._model.roster, self._state, self.rules, self._bind)

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
        self._model.look_for_moved()
        self.before_update()
        words, step = (self._state.masks, self._last_step) if of is None else (of.words, of.step)
        self._masks.write(path, words, step, run_id)

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
        observation = self._passes.finish(started)
        if observation is None:
            self._model.look_again()
            observation = self._passes.finish(self._passes.start(started.step, started.stride))
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
        finished = [self._passes.finish(each) for each in started]
        if None in finished:
            self._model.look_again()
            self._leave_out([each for each, found in zip(started, finished, strict=True) if found is None])
        return [observation for observation in finished if observation is not None]

    def _begin(self, step: int) -> Started:
        step = check_step(step, self._last_step)
        started = self._passes.start(step, step - self._last_step + self._left_out)
        self._last_step, self._left_out = step, 0
        return started

    def _leave_out(self, started: Sequence[Started]) -> None:
        """Say which observations are missing; the next one covers their steps."""
        self._left_out += sum(each.stride for each in started)
        warn_user(
            f"left out: the observation of step {', '.join(str(each.step) for each in started)}, because a process "
            "found only then that parameters are not where they were. The next one covers its steps. Parameters are "
            "best replaced on all processes at once."
        )


def _rules(visible_dtype: str | torch.dtype, criterion: str | Criterion, tolerances: Sequence[float]) -> Rules:
    return Rules(parse_visible_dtype(visible_dtype), Criterion.parse(criterion), check_tolerances(tolerances))
