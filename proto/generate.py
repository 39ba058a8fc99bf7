"""Write monitor/wire from monitor.proto: `python proto/generate.py [DIR]`.

grpcio-tools is pinned: code made by the compiler of protobuf 6.30 is run by protobuf 6 and 7, and training environments
have either. The pinned tool needs protobuf 6, so it gets a directory of its own instead of a place in the environment.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

GRPCIO_TOOLS = "grpcio-tools==1.72.2"
PROTO = Path(__file__).parent
CONTRACT = "sparsity_monitor/v1/monitor.proto"


def install_compiler(directory: Path) -> None:
    """Install the pinned compiler into `directory`, unless it is there."""
    if (directory / "grpc_tools").exists():
        return
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-compile",
        "--target",
        str(directory),
        GRPCIO_TOOLS,
    ]
    subprocess.run(command, check=True)


def generate(compiler: Path, output: Path) -> None:
    """Compile the contract and write monitor_pb2.py, monitor_pb2.pyi and monitor_pb2_grpc.py into `output`."""
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO}", CONTRACT]
        command += [f"--{kind}_out={scratch}" for kind in ("python", "pyi", "grpc_python")]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(compiler)})
        for generated in Path(scratch).rglob("monitor_pb2*"):
            text = generated.read_text().replace("from sparsity_monitor.v1 import", "from monitor.wire import")
            (output / generated.name).write_text(text)


if __name__ == "__main__":
    default_output = PROTO.parent / "monitor" / "wire"
    with tempfile.TemporaryDirectory() as compiler_directory:
        install_compiler(Path(compiler_directory))
        generate(Path(compiler_directory), Path(sys.argv[1]) if len(sys.argv) > 1 else default_output)
