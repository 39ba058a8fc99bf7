"""Print what the service needs, and nothing of what only training needs: `service_requirements.py pyproject.toml`.

The distribution is made for training environments, so its dependencies hold torch. The service has no use for it.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

TRAINING_ONLY = {"torch", "numpy", "safetensors"}


def service_requirements(pyproject: str) -> list[str]:
    """Return the requirements of the service, from the text of pyproject.toml."""
    project = tomllib.loads(pyproject)["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["service"], *extras["postgresql"]]
    return [each for each in wanted if re.split(r"[^A-Za-z0-9-]", each, maxsplit=1)[0] not in TRAINING_ONLY]


if __name__ == "__main__":
    print("\n".join(service_requirements(Path(sys.argv[1]).read_text("utf-8"))))
