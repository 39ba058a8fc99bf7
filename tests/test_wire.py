from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

# They share a compiler, which is downloaded.
pytestmark = pytest.mark.xdist_group("wire")

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    """proto/generate.py as a module."""
    specification = importlib.util.spec_from_file_location("generate", ROOT / "proto" / "generate.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def compiler(generator: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the pinned compiler, and the protobuf 6 that it needs."""
    directory = tmp_path_factory.mktemp("compiler")
    generator.install_compiler(directory)
    return directory


def test_the_generated_code_is_that_of_the_contract(generator: ModuleType, compiler: Path, tmp_path: Path) -> None:
    generator.generate(compiler, tmp_path)
    generated = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert sorted(generated) == ["monitor_pb2.py", "monitor_pb2.pyi", "monitor_pb2_grpc.py"]
    for name, text in generated.items():
        assert (ROOT / "monitor" / "wire" / name).read_text() == text, f"run `python proto/generate.py`: {name} differs"


_ROUND_TRIP = """
import google.protobuf
from monitor.wire import monitor_pb2, monitor_pb2_grpc
item = monitor_pb2.Item(sequence=7, observation=monitor_pb2.Observation(step=3, changed=[1, 2**40]))
assert monitor_pb2.Item.FromString(item.SerializeToString()) == item
print(google.protobuf.__version__.split(".")[0])
"""


def protobuf_major(**environment: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-c", _ROUND_TRIP],
        env={**os.environ, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return ran.stdout.strip()


def test_the_generated_code_runs_on_protobuf_6_and_7(compiler: Path) -> None:
    assert protobuf_major(PYTHONPATH=str(compiler)) == "6"
    assert protobuf_major() == "7"
