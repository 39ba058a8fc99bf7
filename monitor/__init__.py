"""sparsity-monitor: see, live, how sparse a language model's weight updates are while it trains."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from monitor.errors import MissingLibraryError
from monitor.version import __version__

if TYPE_CHECKING:
    from monitor.callback import SparsityCallback
    from monitor.loop import Watch, watch
    from monitor.notebook.load import load_run
    from monitor.observe.masks.file import MaskFile
    from monitor.observe.masks.mask import UpdateMask
    from monitor.observe.observation import Observation
    from monitor.observe.observer import UpdateObserver
    from monitor.observe.overlap import Overlap
    from monitor.observe.served.fingerprint import fingerprint
    from monitor.observe.served.slices import engine_slices
    from monitor.subnetwork.callback import SubnetworkCallback
    from monitor.subnetwork.subnetwork import Subnetwork
    from monitor.verdict import DenseThresholds, Verdict

__all__ = [
    "DenseThresholds",
    "MaskFile",
    "Observation",
    "Overlap",
    "SparsityCallback",
    "Subnetwork",
    "SubnetworkCallback",
    "UpdateMask",
    "UpdateObserver",
    "Verdict",
    "Watch",
    "__version__",
    "engine_slices",
    "fingerprint",
    "load_run",
    "watch",
]

# Imported on first use: the uploader and the service import this package too, and must not load torch.
_HOMES = {
    "DenseThresholds": ".verdict",
    "MaskFile": ".observe.masks.file",
    "Observation": ".observe.observation",
    "Overlap": ".observe.overlap",
    "SparsityCallback": ".callback",
    "Subnetwork": ".subnetwork.subnetwork",
    "SubnetworkCallback": ".subnetwork.callback",
    "UpdateMask": ".observe.masks.mask",
    "UpdateObserver": ".observe.observer",
    "Verdict": ".verdict",
    "Watch": ".loop",
    "engine_slices": ".observe.served.slices",
    "fingerprint": ".observe.served.fingerprint",
    "load_run": ".notebook.load",
    "watch": ".loop",
}


# The base install leaves them to whoever trains.
_LIBRARIES_OF_TRAINING = ("torch", "numpy", "safetensors", "transformers")


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        home = import_module(_HOMES[name], __name__)
    except ModuleNotFoundError as error:
        if error.name not in _LIBRARIES_OF_TRAINING:
            raise
        raise MissingLibraryError(
            f"{name} needs {error.name}, which is not installed: install {error.name}, or everything that training "
            'needs with pip install "sparsity-monitor[train]"',
            name=error.name,
        ) from None
    return getattr(home, name)
