"""sparsity-monitor: see, live, how sparse a language model's weight updates are while it trains."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from monitor.version import __version__

if TYPE_CHECKING:
    from monitor.callback import SparsityCallback
    from monitor.observe.masks.file import MaskFile
    from monitor.observe.masks.mask import UpdateMask
    from monitor.observe.observation import Observation, Overlap
    from monitor.observe.observer import UpdateObserver
    from monitor.verdict import DenseThresholds, Verdict

__all__ = [
    "DenseThresholds",
    "MaskFile",
    "Observation",
    "Overlap",
    "SparsityCallback",
    "UpdateMask",
    "UpdateObserver",
    "Verdict",
    "__version__",
]

# Imported on first use: the uploader and the service import this package too, and must not load torch.
_HOMES = {
    "DenseThresholds": "monitor.verdict",
    "MaskFile": "monitor.observe.masks.file",
    "Observation": "monitor.observe.observation",
    "Overlap": "monitor.observe.observation",
    "SparsityCallback": "monitor.callback",
    "UpdateMask": "monitor.observe.masks.mask",
    "UpdateObserver": "monitor.observe.observer",
    "Verdict": "monitor.verdict",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
