"""The file of a delta: a safetensors file of two byte tensors, `frames` and `manifest`. FORMAT.md has the layout."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from monitor.analysis.delta.blocks import compress, decompress
from monitor.analysis.delta.manifest import Checksum, Frame, Manifest
from monitor.errors import DeltaError
from monitor.version import __version__

FORMAT = "sparsity-monitor delta"
FORMAT_VERSION = 1

# What the header takes in the file, its length included; written last, into room that is kept for it.
_HEADER_BYTES = 1024
_MAX_HEADER_BYTES = 1 << 20
_MAX_MANIFEST_BYTES = 1 << 28
_READ_AT_ONCE = 1 << 22
_AGAIN = "Copy or download it again."


class _Metadata(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    format: str
    format_version: str = Field(pattern="^1$")
    manifest_sha256: Checksum
    manifest_size: str = Field(pattern="^[0-9]{1,12}$")
    written_by: str


class Mark(NamedTuple):
    """A place between two frames to go back to."""

    position: int
    digest: Any


class DeltaWriter:
    """Writes frames one behind the other, then the manifest, then the header.

    Args:
        file: empty, and open for writing.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.position = 0
        file.seek(_HEADER_BYTES)

    def add(self, frame: bytes) -> None:
        """Write a frame."""
        self._file.write(frame)
        self._digest.update(frame)
        self.position += len(frame)

    def add_compressed(self, raw: bytes) -> Frame:
        """Compress bytes, write their frame, and return where it is."""
        frame = compress(raw)
        start = self.position
        self.add(frame)
        return Frame(start=start, length=len(frame), size=len(raw))

    def mark(self) -> Mark:
        """Return where the next frame will be."""
        return Mark(self.position, self._digest.copy())

    def go_back(self, mark: Mark) -> None:
        """Forget all frames from a mark on."""
        self._file.seek(_HEADER_BYTES + mark.position)
        self._file.truncate()
        self.position, self._digest = mark.position, mark.digest

    @property
    def frames_sha256(self) -> str:
        """Checksum of all frames so far."""
        return self._digest.hexdigest()

    def finish(self, manifest: Manifest) -> None:
        """Write manifest and header: only now it is a delta.

        Raises:
            DeltaError: it could not be read again.
        """
        text = manifest.model_dump_json().encode()
        Manifest.from_json(text)
        frame = compress(text)
        self._file.write(frame)
        metadata = {
            "format": FORMAT,
            "format_version": str(FORMAT_VERSION),
            "manifest_sha256": hashlib.sha256(frame).hexdigest(),
            "manifest_size": str(len(text)),
            "written_by": f"sparsity-monitor {__version__}",
        }
        end = self.position + len(frame)
        text = json.dumps(_header(metadata, self.position, end)).encode()
        self._file.seek(0)
        self._file.write((_HEADER_BYTES - 8).to_bytes(8, "little") + text.ljust(_HEADER_BYTES - 8))


def _header(metadata: dict[str, str], frames_end: int, end: int) -> dict[str, Any]:
    return {"__metadata__": metadata, "frames": _bytes(0, frames_end), "manifest": _bytes(frames_end, end)}


def _bytes(start: int, end: int) -> dict[str, Any]:
    return {"dtype": "U8", "shape": [end - start], "data_offsets": [start, end]}


class DeltaFile:
    """A delta on disk, of which header and manifest are read at once, and frames when they are asked for.

    Threads may read side by side. The file closes with this object.

    Attributes:
        path: where it is.
        size: bytes of the file.
        manifest: what it says of itself.
        written_by: name and version of the program.

    Raises:
        DeltaError: there is no file, it is no delta, is cut short or damaged, or a newer version wrote it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self.size = os.fstat(self._descriptor).st_size
            header, self._frames_at = self._header()
        except OSError as error:
            raise DeltaError(f"cannot read {str(path)!r}: {error.strerror}.") from error
        metadata = self._metadata(header)
        self.written_by = metadata.written_by
        frames_end, end = self._ends(header)
        self.frames_size = frames_end
        frame = self._read(frames_end, end - frames_end)
        if hashlib.sha256(frame).hexdigest() != metadata.manifest_sha256:
            raise DeltaError(f"{str(path)!r} is damaged: its manifest does not have its checksum. {_AGAIN}")
        self.manifest = self._parsed(frame, int(metadata.manifest_size))

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)

    def frame(self, start: int, length: int) -> bytes:
        """Return the bytes of a frame as they are in the file."""
        return self._read(start, length)

    def content(self, frame: Frame) -> bytes:
        """Return what a frame holds."""
        return decompress(self.frame(frame.start, frame.length), frame.size)

    def check_frames(self) -> None:
        """Read all frames, and compare their checksum.

        Raises:
            DeltaError: they are not what was written.
        """
        digest = hashlib.sha256()
        for start in range(0, self.frames_size, _READ_AT_ONCE):
            digest.update(self._read(start, min(_READ_AT_ONCE, self.frames_size - start)))
        if digest.hexdigest() != self.manifest.frames_sha256:
            raise DeltaError(f"{str(self.path)!r} is damaged: its frames do not have their checksum. {_AGAIN}")

    def _read(self, start: int, length: int) -> bytes:
        parts = []
        while length:
            try:
                part = os.pread(self._descriptor, min(length, _READ_AT_ONCE), self._frames_at + start)
            except OSError as error:
                raise DeltaError(f"cannot read {str(self.path)!r}: {error.strerror}.") from error
            if not part:
                raise DeltaError(f"{str(self.path)!r} is cut short. {_AGAIN}")
            parts.append(part)
            start, length = start + len(part), length - len(part)
        return b"".join(parts)

    def _header(self) -> tuple[dict[str, Any], int]:
        length = int.from_bytes(os.pread(self._descriptor, 8, 0), "little")
        text = os.pread(self._descriptor, length, 8) if length <= _MAX_HEADER_BYTES else b""
        try:
            header = json.loads(text)
        except ValueError:
            header = None
        if not isinstance(header, dict) or not isinstance(header.get("__metadata__"), dict):
            raise DeltaError(f"{str(self.path)!r} is no delta, or is cut short. {_EXPECTED}")
        return header, 8 + length

    def _metadata(self, header: dict[str, Any]) -> _Metadata:
        found = header["__metadata__"]
        if found.get("format") != FORMAT:
            raise DeltaError(f"{str(self.path)!r} is a safetensors file, but no delta. {_EXPECTED}")
        version = found.get("format_version")
        if isinstance(version, str) and version.isdecimal() and int(version) > FORMAT_VERSION:
            raise DeltaError(
                f"{str(self.path)!r} has format version {version}, and this version of sparsity-monitor reads up to "
                f"{FORMAT_VERSION}; update sparsity-monitor."
            )
        try:
            return _Metadata.model_validate(found)
        except ValidationError as error:
            raise DeltaError(f"{str(self.path)!r} is damaged: its header is not as it was written. {_AGAIN}") from error

    def _ends(self, header: dict[str, Any]) -> tuple[int, int]:
        try:
            frames, manifest = (header[name]["data_offsets"] for name in ("frames", "manifest"))
            middle, end = int(frames[1]), int(manifest[1])
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise DeltaError(f"{str(self.path)!r} is damaged: its header is not as it was written. {_AGAIN}") from error
        if header != _header(header["__metadata__"], middle, end) or not 0 <= middle <= end:
            raise DeltaError(f"{str(self.path)!r} is damaged: its header is not as it was written. {_AGAIN}")
        if self._frames_at + end != self.size:
            raise DeltaError(
                f"{str(self.path)!r} is cut short: it has {self.size} bytes, and its header promises "
                f"{self._frames_at + end}. {_AGAIN}"
            )
        return middle, end

    def _parsed(self, frame: bytes, size: int) -> Manifest:
        if size > _MAX_MANIFEST_BYTES:
            raise DeltaError(
                f"{str(self.path)!r} has a manifest of {size} bytes; expected {_MAX_MANIFEST_BYTES} at most."
            )
        try:
            manifest = Manifest.from_json(decompress(frame, size))
            for start, length in _frames_of(manifest):
                if start + length > self.frames_size:
                    raise DeltaError("its manifest names frames that it does not have.")
        except DeltaError as error:
            raise DeltaError(f"{str(self.path)!r} cannot be used: {error} {_AGAIN}") from error
        return manifest


def check_replaceable(target: Path) -> None:
    """Accept where a delta is to be written: there is nothing, or an earlier delta, whatever it is worth.

    Raises:
        DeltaError: there is something else, such as a checkpoint.
    """
    if not target.exists() and not target.is_symlink():
        return
    try:
        with target.open("rb") as file:
            is_delta = FORMAT.encode() in file.read(_HEADER_BYTES)
    except OSError:
        is_delta = False
    if not is_delta:
        raise DeltaError(f"{str(target)!r} is there already, and is no delta; it is kept as it is. Give another name.")


_EXPECTED = "Expected a file that `sparsity-monitor delta make` wrote."


def _frames_of(manifest: Manifest) -> Iterator[tuple[int, int]]:
    for frame in (*(file.frame for file in manifest.files), *(shard.header for shard in manifest.shards)):
        yield frame.start, frame.length
    for tensor in manifest.tensors:
        yield tensor.start, sum(block.length for block in tensor.blocks)
