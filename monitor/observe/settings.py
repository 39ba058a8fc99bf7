"""The settings of a measurement: the one place that names each, explains it and has its default.

UpdateObserver takes them as arguments, and SparsityCallback does, among its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from textwrap import fill
from typing import TYPE_CHECKING, Any, TypeVar

Owner = TypeVar("Owner", bound=type[Any])

if TYPE_CHECKING:
    Numbers = Sequence[float]
    Patterns = Sequence[str]
else:
    # SparsityCallback takes a list, or a set; what it keeps cannot change any more.
    Numbers = tuple[float, ...]
    Patterns = tuple[str, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class MeasurementSettings:
    """How weights are measured. Whether a value can work is checked by those who take it.

    The explanations are metadata, because both take them from there: `explained`, and pydantic in RunSettings.
    """

    criterion: str = field(
        default="bits",
        metadata={"description": 'What counts as changed in the update mask: "bits" or "atol=1e-5".'},
    )

    tolerances: Numbers = field(
        default=(),
        metadata={"description": "Absolute tolerances; the changed weights are also counted at each of them."},
    )

    visible_dtype: str = field(
        default="bfloat16",
        metadata={
            "description": 'The dtype that the trained model will be served in: "bfloat16", "float16" or "float32". '
            "Weights are rounded to it before they are compared."
        },
    )

    base_mode: str = field(
        default="auto",
        metadata={
            "description": 'Where the base is kept: "device", "host", "low_byte"; see BaseMode. "auto" chooses by free '
            "memory, and uses a module, and what the model holds below its adapters, where it is. That must not be "
            "written to, as by merging into it: its weights are then reported as unmeasured."
        },
    )

    include: Patterns | None = field(
        default=None,
        metadata={
            "description": "Regular expressions, searched for in parameter names; only parameters that match one are "
            "measured."
        },
    )

    exclude: Patterns | None = field(
        default=None,
        metadata={
            "description": "Regular expressions, searched for in parameter names; parameters that match one are not "
            "measured."
        },
    )

    step_masks: bool = field(
        default=True,
        metadata={
            "description": "Compare with the previous observation, too. Holds one more byte and bit per weight (4 "
            "bytes where the visible dtype is float32); a changed 16-bit weight that moves on by a multiple of 256 "
            "representable steps is missed."
        },
    )


def explained(owner: Owner) -> Owner:
    """Put the explanations into the docstring of a class that takes these settings, where that says `{settings}`."""
    if owner.__doc__ is not None:
        owner.__doc__ = owner.__doc__.replace("{settings}", _explanations(indent=8).strip())
    return owner


def _explanations(indent: int) -> str:
    first, others = " " * indent, " " * (indent + 4)
    return "\n".join(
        fill(f"{each.name}: {each.metadata['description']}", 120, initial_indent=first, subsequent_indent=others)
        for each in fields(MeasurementSettings)
    )
