from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from tests.processes import Processes

# What is imported stays: looking for garbage in between takes a seventh of the time.
gc.disable()

# To import it is to do what it does, which is not for workers.
collect_ignore = ["ready.py"]

# Images of containers often forbid it; then each of hundreds of processes would compile all that it imports.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Of a shell's background job SIGINT is ignored, and so it would be in every process that a test ends with it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Before transformers is imported: no hub, no telemetry, and TRL's experimental trainers without their banner.
os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    TOKENIZERS_PARALLELISM="false",
    TRL_EXPERIMENTAL_SILENCE="1",
    CI="1",
)


def pytest_configure(config: pytest.Config) -> None:
    """Have the Triton kernel interpreted where there is no GPU, and loops compiled once, before a test imports them.

    Without torch, only the service's tests can run; see tests/floors. Who only hands tests to others needs none.
    """
    only_distributes = config.getoption("numprocesses", None) and not hasattr(config, "workerinput")
    if only_distributes or not find_spec("torch"):
        return
    import torch

    from tests.compiling import compile_one_at_a_time

    if not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")
    compile_one_at_a_time()


# How many modules were imported when `_freeze` ran last, and after how many more it runs again.
_frozen_modules = 0
_MODULES_AT_A_TIME = 50


def _freeze() -> None:
    """Leave what is imported out of every later search for garbage, which trainers and processes that end make."""
    global _frozen_modules  # noqa: PLW0603
    _frozen_modules = len(sys.modules)
    gc.collect()
    gc.freeze()


def pytest_collection_finish() -> None:
    gc.enable()
    _freeze()
    # Only at the very end, not in the searches of pytest before: libraries would say what they find left then.
    atexit.register(gc.unfreeze)


def pytest_runtest_setup() -> None:
    """Freeze what tests have imported since: of models and trainers alone, a search takes a tenth of a second."""
    if len(sys.modules) >= _frozen_modules + _MODULES_AT_A_TIME:
        _freeze()


@pytest.fixture(scope="session")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """Runs trainings, see tests/training/trained.py. Importing what they need takes long: its tests are one group."""
    with Processes(tmp_path_factory.mktemp("processes"), "tests.training.trained", "tests.ready") as processes:
        yield processes
