"""What a structure is of: which checkpoints, on which device, and which of their parameters are not compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from monitor.analysis.pairs import Pairs


@dataclass(frozen=True)
class Source:
    """Two checkpoints as a reader knows them.

    Attributes:
        base, finetuned: as they were given.
        device: where it was measured.
        not_compared: (why, as a clause; names) for each reason that there is.
        notes: sentences about what was taken for base and fine-tuned model.
    """

    base: str
    finetuned: str
    device: str
    not_compared: tuple[tuple[str, tuple[str, ...]], ...]
    notes: tuple[str, ...]

    @classmethod
    def of(cls, pairs: Pairs, device: str) -> Source:
        """Describe two checkpoints."""
        reasons: tuple[tuple[str, Sequence[str]], ...] = (
            ("only in the base", pairs.missing),
            ("only in the fine-tuned", pairs.added),
            ("of another shape", tuple(pairs.reshaped)),
            ("no parameters of the model", pairs.left_out),
            ("left as they are by the adapters", pairs.unchanged),
        )
        return cls(
            pairs.base.source,
            pairs.finetuned.source,
            device,
            tuple((why, tuple(names)) for why, names in reasons if names),
            tuple(pairs.notes),
        )

    def as_json(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return {
            "base": self.base,
            "finetuned": self.finetuned,
            "device": self.device,
            "notes": list(self.notes),
            "not_compared": {why: list(names) for why, names in self.not_compared},
        }
