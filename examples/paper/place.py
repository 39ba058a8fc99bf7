"""Where the experiments are kept."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from paper.experiments import Scale

LOG_FILE = "log.txt"


@dataclass(frozen=True)
class Place:
    """A directory that has one for each experiment, and the gRPC address that they report to; None only keeps."""

    output: Path
    target: str | None

    @property
    def base(self) -> Path:
        """Directory of the base model."""
        return self.output / "base-model"

    def directory(self, name: str) -> Path:
        """Directory of an experiment."""
        return self.output / name

    def keep_right_answers_of_base(self, scale: Scale, share: float) -> None:
        """Write that the base model is complete, and how many of its answers are right, 0 to 1."""
        self._base_file.write_text(json.dumps({"scale": asdict(scale), "right_answers": share}))

    def right_answers_of_base(self, scale: Scale) -> float | None:
        """Return the share of right answers of the base model, None where there is none of this scale."""
        content = json.loads(self._base_file.read_text()) if self._base_file.exists() else {}
        return content["right_answers"] if content.get("scale") == asdict(scale) else None

    @property
    def _base_file(self) -> Path:
        return self.base / "base.json"
