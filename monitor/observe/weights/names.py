"""Names of parameters: the same whatever wraps the model, and each of one parameter alone."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypeVar

from monitor.errors import UnsupportedModelError, name_some

T = TypeVar("T")

# Names that wrappers put into a parameter's path: DDP, torch.compile, FSDP1, activation checkpointing.
_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|module)\.")


def clean_name(name: str) -> str:
    """Return the parameter's name without what wrappers added.

    >>> clean_name("module._orig_mod.model.norm.weight")
    'model.norm.weight'
    """
    return _WRAPPERS.sub("", name)


def by_clean_name(named: Iterable[tuple[str, T]]) -> dict[str, T]:
    """Return parameters by clean name, in their order. One that comes twice under a name is kept once.

    Raises:
        UnsupportedModelError: different ones have the same name, so that one would be taken for the other.
    """
    found: dict[str, tuple[str, T]] = {}
    ambiguous = []
    for name, parameter in named:
        first, other = found.setdefault(clean_name(name), (name, parameter))
        if other is not parameter:
            ambiguous.append(f"{first!r} and {name!r}")
    if ambiguous:
        raise UnsupportedModelError(
            f"different parameters with one name: {name_some(ambiguous)}. Names are compared without what wrappers "
            "(DDP, FSDP, torch.compile, activation checkpointing) add to them: 'module.', '_orig_mod.', "
            "'_fsdp_wrapped_module.', '_checkpoint_wrapped_module.'. Call the model's own submodule otherwise."
        )
    return {name: parameter for name, (_, parameter) in found.items()}
