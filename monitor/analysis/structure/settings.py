"""What is measured, and how."""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torch

from monitor.analysis.structure import defaults
from monitor.errors import ConfigurationError, shown
from monitor.observe.criterion import Criterion


@dataclass(frozen=True)
class StructureSettings:
    """How a structure is measured.

    Attributes:
        visible_dtype: dtype that weights are rounded to before they are compared.
        criterion: when a weight counts as changed, for the mask. Norms, spectra and steps are of all visible Δ.
        share: α, the share of a matrix that counts as its smallest, largest and principal weights (arXiv 2511.08567).
        principal_rank: k of the principal weights, as a share of min(rows, columns).
        whole_up_to: min(rows, columns) up to which all singular values of Δ, and of the base, are computed.
        only: patterns with * of parameter names; a parameter that none of them fits is skipped. Empty: none is.
        max_size: a parameter of more weights is skipped.

    Raises:
        ConfigurationError: a value that cannot work.
    """

    visible_dtype: torch.dtype = torch.bfloat16
    criterion: Criterion = field(default_factory=Criterion)
    share: float = defaults.ALPHA
    principal_rank: float = defaults.PRINCIPAL_RANK
    whole_up_to: int = defaults.WHOLE_UP_TO
    only: tuple[str, ...] = ()
    max_size: int | None = None

    def __post_init__(self) -> None:
        for name in ("share", "principal_rank"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigurationError(
                    f"{name} is {shown(getattr(self, name))}; expected a share between 0 and 1, such as 0.1 (10 %)."
                )

    def why_skipped(self, name: str, weights: int) -> str | None:
        """Return why a parameter is left out of everything, as a clause; None where it is not."""
        if self.only and not any(fnmatchcase(name, pattern) for pattern in self.only):
            return "not asked for"
        if self.max_size is not None and weights > self.max_size:
            return f"more than {self.max_size:,} weights"
        return None
