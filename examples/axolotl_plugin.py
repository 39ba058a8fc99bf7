"""The callback in axolotl, by one entry of its YAML file. Written for axolotl 0.18.0.

    plugins:
      - axolotl_plugin.SparsityPlugin

PYTHONPATH=examples SPARSITY_MONITOR_TARGET=localhost:50051 axolotl train config.yaml
"""

from typing import Any

from axolotl.integrations.base import BasePlugin

from monitor import SparsityCallback


class SparsityPlugin(BasePlugin):  # type: ignore[misc]
    """Attaches the callback, with settings from the environment, to the trainer that axolotl has made."""

    def add_callbacks_post_trainer(self, cfg: Any, trainer: Any) -> list[Any]:
        SparsityCallback().attach(trainer)
        # axolotl would add what is returned: attached, it is there already.
        return []
