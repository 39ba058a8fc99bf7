from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tiny import save_model


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a tiny pretrained Qwen2 and its tokenizer."""
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session", autouse=True)
def _what_was_imported_is_no_garbage() -> Iterator[None]:
    # Every training collects garbage several times, and half its time would go into looking through the libraries.
    gc.freeze()
    yield
    gc.unfreeze()
