"""The small files that make a checkpoint usable: configuration, tokenizer, templates. They travel inside the delta."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from monitor.errors import CheckpointError

LARGEST_FILE = 64 << 20
"""Bytes of a file that is still carried. The largest tokenizers have about 35 MB."""

LARGEST_TOGETHER = 256 << 20
"""Bytes of all carried files."""

# Weights in other formats, the state of a training, and what torch or pickle wrote, which runs code where it is loaded.
_WEIGHTS = {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".ggml", ".onnx", ".onnx_data"}
_OTHERS = {".pkl", ".pickle", ".npz", ".npy", ".tar", ".gz", ".zip", ".incomplete", ".delta", ".lock"}
_NOT_CARRIED = _WEIGHTS | _OTHERS
_STATE_OF_TRAINING = {"trainer_state.json", "zero_to_fp32.py", "latest"}
_INDEX = ".index.json"
# Where transformers keeps the further chat templates of a tokenizer.
_FOLDERS = ("additional_chat_templates",)
_MAX_NAME = 255


@dataclass(frozen=True)
class Found:
    """What a directory holds besides its weights.

    Attributes:
        carried: path below the directory, with slashes → file.
        left_out: names that are not carried.
    """

    carried: dict[str, Path]
    left_out: tuple[str, ...]


NOTHING = Found({}, ())
"""What there is beside a single file."""


def find_files(directory: Path, *, weights: frozenset[Path], target: Path) -> Found:
    """Return what to carry of a directory.

    Args:
        directory: of the fine-tuned checkpoint.
        weights: files in it whose tensors the delta describes.
        target: where the delta will be, which may be there and have an earlier one.

    Raises:
        CheckpointError: the directory cannot be read.
    """
    carried: dict[str, Path] = {}
    left_out: list[str] = []
    taken: set[str] = set()
    total = 0
    for name, path in _candidates(directory):
        if path in weights or name.endswith(_INDEX) or path.absolute() == target.absolute():
            continue
        size = path.stat().st_size if path.is_file() and _is_wanted(name, path) else None
        # Some file systems take names that differ in case for the same.
        if size is None or total + size > LARGEST_TOGETHER or name.casefold() in taken:
            left_out.append(encodable(name))
            continue
        total += size
        taken.add(name.casefold())
        carried[name] = path
    return Found(carried, tuple(left_out))


def content_of(path: Path) -> bytes:
    """Return all bytes of a file.

    Raises:
        CheckpointError: it cannot be read.
    """
    with _reading(path):
        return path.read_bytes()


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"cannot read {str(path)!r}: {error.strerror}.") from error


def _below(directory: Path) -> list[Path]:
    with _reading(directory):
        return sorted(directory.iterdir())


def _candidates(directory: Path) -> Iterator[tuple[str, Path]]:
    for path in _below(directory):
        if path.name in _FOLDERS and path.is_dir():
            yield from ((f"{path.name}/{below.name}", below) for below in _below(path))
        elif not path.name.startswith("."):
            yield path.name, path


def _is_wanted(name: str, path: Path) -> bool:
    if path.suffix in _NOT_CARRIED or name in _STATE_OF_TRAINING or unsafe(name):
        return False
    return path.stat().st_size <= LARGEST_FILE


def encodable(name: str) -> str:
    r"""Return a name with escapes for what is no character, as the names of files can have them.

    >>> print(encodable("r\udce9sum\udce9.txt"))
    r\udce9sum\udce9.txt
    """
    return name.encode(errors="backslashreplace").decode()


def unsafe(path: str) -> bool:
    r"""Return whether a path could lead out of the directory it is for, or is none on some system.

    >>> unsafe("additional_chat_templates/tool_use.jinja"), unsafe("../config.json"), unsafe("/etc/passwd")
    (False, True, True)
    """
    parts = path.split("/")
    return not (path.isprintable() and "\\" not in path and ":" not in path and all(map(_is_name, parts)))


def _is_name(part: str) -> bool:
    return part not in ("", ".", "..") and len(part.encode(errors="replace")) <= _MAX_NAME
