"""What the callback finds out before training starts: where the base is, what was touched before, what cannot work."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from monitor.errors import ConfigurationError
from monitor.observe.base.weights import holds_the_same
from monitor.observe.observer import UpdateObserver
from monitor.observe.ranks import Ranks
from monitor.observe.weights.adapters import has_adapters, served_by
from monitor.training.pretrained import read_pretrained
from monitor.training.settings import RunSettings

logger = logging.getLogger(__name__)

# Below the output directory, and below each checkpoint.
DIRECTORY = "sparsity_monitor"
# Where the run's identity is kept in the trainer's state, which is saved with each checkpoint. Not the name of a
# callback class: the Trainer would try to rebuild that callback from it.
STATE_KEY = "sparsity_monitor"

BaseSource = str | Path | nn.Module | Mapping[str, torch.Tensor]
Base = nn.Module | Mapping[str, torch.Tensor] | None

# Which training of a model is observed: each has a state of its own.
_observed: weakref.WeakKeyDictionary[nn.Module, weakref.ref[TrainerState]] = weakref.WeakKeyDictionary()


def refuse_a_second_callback(model: nn.Module, state: TrainerState) -> None:
    """Note that this training is observed.

    Raises:
        ConfigurationError: it is observed already.
    """
    observed_in = _observed.get(model)
    if observed_in is not None and observed_in() is state:
        raise ConfigurationError(
            f"two SparsityCallbacks observe this training of {type(model).__name__}; expected one. Remove one of "
            "`callbacks=[…]`, `trainer.add_callback(…)` and `.attach(trainer)`."
        )
    _observed[model] = weakref.ref(state)


def check_base(given: object) -> BaseSource | None:
    """Return what a base can be read from.

    Raises:
        ConfigurationError: it is nothing of that kind.
    """
    if given is None or isinstance(given, str | Path | nn.Module | Mapping):
        return given
    raise ConfigurationError(
        f"base is {given!r}; expected a directory or hub id, a module, or a state dict {{parameter name: tensor}}."
    )


def refuse_a_moving_base(given: BaseSource | None, args: TrainingArguments) -> None:
    """Refuse a base that follows the training.

    Raises:
        ConfigurationError: a module is given while the trainer synchronises its reference model.
    """
    if isinstance(given, nn.Module) and getattr(args, "sync_ref_model", False):
        raise ConfigurationError(
            "base is a module and sync_ref_model is on: where that is the trainer's ref_model, it follows the "
            "training and is no base. Leave `base` out, or give a state dict, which is copied before training."
        )


def warn_of_merging(args: TrainingArguments, model: nn.Module) -> None:
    """Say that a trainer which merges adapters moves the weights below them."""
    if getattr(args, "use_vllm", False) and has_adapters(model):
        logger.warning(
            "sparsity-monitor: for vLLM, TRL merges the adapters into the frozen weights and takes them out again, "
            "which does not bring these back bit for bit. Updates are measured against the weights as they are then."
        )


def warn_of_moved_weights() -> None:
    """Say that the base is none that a training has started from."""
    logger.warning(
        "sparsity-monitor: training starts again from weights that it has already moved, and updates are measured "
        "against them as they are now. Give the original weights as `base`."
    )


def own_directory(args: TrainingArguments) -> str:
    """Return the name of the monitor's directory in the output directory.

    What is pushed to a hub is all but what starts with "_": the spool does not belong there, and reading its files
    would give up the locks on them.
    """
    return f"_{DIRECTORY}" if getattr(args, "push_to_hub", False) else DIRECTORY


def updates_early(args: TrainingArguments) -> bool:
    """Return whether weights change before `on_pre_optimizer_step`.

    DeepSpeed, LOMO and layerwise optimizers update within the backward pass; for vLLM, TRL merges adapters before it.
    """
    optimizer = str(getattr(args.optim, "value", args.optim))
    by_deepspeed = getattr(args, "deepspeed", None) or getattr(args, "deepspeed_plugin", None)
    in_backward = "lomo" in optimizer or optimizer.endswith("layerwise")
    return bool(by_deepspeed or in_backward or getattr(args, "use_vllm", False))


def find_base(
    model: nn.Module, given: BaseSource | None, reference_model: nn.Module | None, ranks: Ranks, *, resumed: bool
) -> tuple[Base, str]:
    """Return the base, None for the weights as they are now, and where it comes from.

    Args:
        given: what the user gave as the base.
        reference_model: a frozen model that the trainer holds; the base if it has the weights of the start.
        resumed: the weights as they are now are not those that training started with.

    Raises:
        BaseMismatchError: the base has to be read, and cannot be.
    """
    own_name = str(getattr(model, "name_or_path", ""))
    if isinstance(given, str | Path):
        return read_pretrained(model, str(given)), str(given)
    if given is not None:
        return given, str(getattr(given, "name_or_path", "") or "given weights")
    if resumed and not served_by(model).holds_base:
        return read_pretrained(model, own_name), own_name
    # Decided together: every process takes the same way from here on.
    if reference_model is not None and ranks.all_say(ranks.all_or_none(lambda: holds_the_same(reference_model, model))):
        return reference_model, own_name or "reference model"
    return None, own_name or "initial weights"


def measured_as(settings: RunSettings) -> dict[str, Any]:
    """Return the settings that a resumed run must share with its earlier attempts, as JSON keeps them."""
    patterns = {"include": settings.include, "exclude": settings.exclude}
    # Their order changes nothing, and none of them is as good as no list.
    kept = {name: sorted(set(some)) if some else None for name, some in patterns.items()}
    return {"criterion": settings.criterion, "visible_dtype": settings.visible_dtype, **kept}


def check_measured_alike(settings: RunSettings, known: Mapping[str, Any]) -> None:
    """Check that a run is resumed with the settings that it was measured with.

    Args:
        known: what the checkpoint says of the run; empty for a new one.

    Raises:
        ConfigurationError: it is not; the message names what differs.
    """
    earlier = known.get("measured_as", {})
    different = [
        f"{name} is {now!r} instead of {earlier[name]!r}"
        for name, now in measured_as(settings).items()
        if name in earlier and earlier[name] != now
    ]
    if different:
        raise ConfigurationError(
            f"run {known.get('run_id')} was measured otherwise before: {'; '.join(different)}. Resume it with what it "
            f"was started with, or delete {STATE_KEY!r} from the checkpoint's trainer_state.json to start a new run."
        )


def touched_directory(args: TrainingArguments, step: int) -> Path:
    """Return where the touched weights are saved with the checkpoint of a step."""
    return Path(args.output_dir or ".") / f"checkpoint-{step}" / DIRECTORY


def restore_touched(observer: UpdateObserver, args: TrainingArguments, state: TrainerState) -> None:
    """Let a resumed observer go on from the touched weights that were saved with the checkpoint."""
    # The Trainer does not say which checkpoint it resumed; what was given to train() is seen nowhere.
    given = args.resume_from_checkpoint
    places = [Path(given) / DIRECTORY] if isinstance(given, str | Path) else []
    places.append(touched_directory(args, state.global_step))
    found = observer.restore([place for place in places if _is_of_this_run(place.parent, state)])
    if not found and state.is_world_process_zero:
        logger.warning(
            "sparsity-monitor: no touched weights that this run saved at step %d were found in %s; counting goes on "
            "from the weights that differ from the base now. If the checkpoint lies elsewhere, name it as "
            "resume_from_checkpoint in the training arguments, not only in train().",
            state.global_step,
            " or ".join(str(place) for place in places),
        )


def _is_of_this_run(checkpoint: Path, state: TrainerState) -> bool:
    """Return whether the checkpoint was saved in the attempt of the run that the resumed one was saved in.

    Another run on the same base may have left a checkpoint of the same step in the output directory.
    """
    try:
        saved = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
    except (OSError, ValueError, TypeError):
        return False
    return bool(_identity(saved) == _identity(state))


def _identity(state: TrainerState) -> Any:
    return state.stateful_callbacks.get(STATE_KEY, {}).get("attributes")
