"""Reads again the weights that a training started from, by the model's own `from_pretrained`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import PretrainedConfig
from transformers.integrations import deepspeed

from monitor.errors import BaseMismatchError

# With it, transformers loads the weights on the first process only, for FSDP to share out.
_FSDP_SWITCH = "ACCELERATE_USE_FSDP"
# What architectures call the widths at the top of their configuration.
_WIDTHS = ("hidden_size", "intermediate_size", "n_embd", "d_model")


def read_pretrained(model: nn.Module, source: str) -> dict[str, torch.Tensor]:
    """Return the weights of a directory or hub id under the names that `model` has for them, in host memory.

    What the checkpoint lacks, such as the head of a reward model that is made from a language model, is not among them.

    Loading through the model's class matters: names on disk differ from those in memory, for experts for example.

    Raises:
        BaseMismatchError: they cannot be read; the message says how to give them.
    """
    kind = _pretrained_class(model)
    _refuse_another_architecture(model, source)
    try:
        # Layers that the checkpoint lacks are initialised at random, which must not advance the training's generator.
        with torch.random.fork_rng(), _loading_whole():
            loaded, report = kind.from_pretrained(source, dtype="auto", output_loading_info=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise BaseMismatchError(
            f"cannot read the base from {source!r}: {error}. Give the directory or hub id of the weights that this "
            "training started from as `base`."
        ) from error
    random = set(report["missing_keys"])
    return {name: p for name, p in loaded.named_parameters(remove_duplicate=False) if name not in random}


def _refuse_another_architecture(model: nn.Module, source: str) -> None:
    """Compare configurations first: of another architecture, whole models would be initialised at random."""
    trained = getattr(model, "config", None)
    # The training itself was loaded from there, whatever the configuration says.
    if not isinstance(trained, PretrainedConfig) or source == getattr(model, "name_or_path", None):
        return
    try:
        given, _ = PretrainedConfig.get_config_dict(source)
    except OSError:
        # Reading the weights tells why, or succeeds without a configuration, as for those below an adapter.
        return
    # The directory may hold a multimodal model, whose configuration has the language model's as a part.
    parts = [given, *(part for part in given.values() if isinstance(part, dict))]
    kinds = [part["model_type"] for part in parts if part.get("model_type")]
    expected = trained.to_dict()
    different = [
        f"{name} {given[name]} instead of {expected[name]}"
        for name in _WIDTHS
        if name in given and name in expected and given[name] != expected[name]
    ]
    if kinds and trained.model_type not in kinds:
        different = [f"model_type {kinds[0]!r} instead of {trained.model_type!r}"]
    elif given.get("model_type") != trained.model_type:
        return
    if different:
        raise BaseMismatchError(
            f"the base in {source!r} is another model: {', '.join(different)}. Give the directory or hub id of the "
            "weights that this training started from as `base`."
        )


def _pretrained_class(model: nn.Module) -> Any:
    while hasattr(model, "_orig_mod"):
        model = model._orig_mod  # type: ignore[assignment]
    if hasattr(model, "get_base_model"):
        # PEFT's from_pretrained reads adapters, not the weights below them.
        model = model.get_base_model()  # type: ignore[operator]
    for kind in type(model).__mro__:
        # FSDP2 replaces a model's class by a subclass that derives from FSDPModule, too.
        if hasattr(kind, "from_pretrained") and not any(base.__name__ == "FSDPModule" for base in kind.__mro__):
            return kind
    raise BaseMismatchError(
        f"cannot read the base again: {type(model).__name__} has no from_pretrained. Give the weights that this "
        "training started from as `base`, as a module or a state dict."
    )


@contextmanager
def _loading_whole() -> Iterator[None]:
    """Load whole weights on this process, even if the training shards its own."""
    switch = os.environ.pop(_FSDP_SWITCH, None)
    reference = deepspeed._hf_deepspeed_config_weak_ref
    configuration = reference() if reference is not None else None
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if switch is not None:
            os.environ[_FSDP_SWITCH] = switch
        if configuration is not None:
            deepspeed.set_hf_deepspeed_config(configuration)
