from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny import save_model


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a tiny pretrained Qwen2 and its tokenizer."""
    return save_model(tmp_path_factory.mktemp("model"))
