"""A reader of deltas, written from FORMAT.md alone: it imports nothing of `monitor`, and knows no dtype."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import zstandard
from safetensors.numpy import load_file


def finetuned_files(base: dict[str, bytes], delta: Path) -> dict[str, bytes]:
    """Return path → content of all that a delta makes of a base, which is given as name → bytes of the tensor."""
    stored = {name: array.tobytes() for name, array in load_file(delta).items()}
    manifest, frames = json.loads(zstandard.decompress(stored["manifest"])), stored["frames"]
    files = {each["path"]: _content(frames, each["frame"]) for each in manifest["files"]}
    done: dict[str, bytes] = {}
    tensors = iter(manifest["tensors"])
    for shard in manifest["shards"]:
        files[shard["path"]] = _content(frames, shard["header"])
        for tensor in (next(tensors) for _ in range(shard["tensors"])):
            source = tensor["source"] or {"of": "nothing"}
            old = {"base": base, "finetuned": done, "nothing": {}}[source["of"]].get(source.get("name"), b"")
            done[tensor["name"]] = _tensor(tensor, old, frames, manifest["block_values"])
            files[shard["path"]] += done[tensor["name"]]
    return files


def _content(frames: bytes, frame: dict[str, int]) -> bytes:
    return zstandard.decompress(frames[frame["start"] :][: frame["length"]])


def _tensor(tensor: dict[str, Any], old: bytes, frames: bytes, block_values: int) -> bytes:
    width, start = tensor["width"], tensor["start"]
    size = width * int(np.prod(tensor["shape"], dtype=np.int64))
    dtypes = ((tensor["source"] or tensor)["dtype"], tensor["dtype"])
    if dtypes == ("BF16", "F32"):
        old = (np.frombuffer(old, "<u2").astype("<u4") * 2**16).tobytes()
    elif dtypes == ("F32", "BF16"):
        bits = np.frombuffer(old, "<u4").astype(object)
        old = b"".join(((u + 32767 + (u >> 16 & 1)) % 2**32 // 2**16).to_bytes(2, "little") for u in bits)
    values = np.frombuffer(old[:size].ljust(size, b"\0"), f"<u{width}").copy()
    for i, (kind, changed, _, length) in enumerate(tensor["blocks"]):
        block = values[i * block_values :][:block_values]
        raw = b"" if kind == "same" else _content(frames, {"start": start, "length": length})
        start += length
        described = len(block) if kind in ("all", "plain") else changed
        split = len(raw) - described * width
        numbers, where = _planes(raw[split:], width), slice(None)
        if kind == "bitmap":
            where = np.unpackbits(np.frombuffer(raw[:split], "u1"), bitorder="little")[: len(block)].astype(bool)
        elif kind == "gaps":
            distances = _planes(raw[:split], 2).astype(int)
            where = (np.cumsum(distances + (distances < 65535)) - 1)[distances < 65535]
        if kind != "same":
            steps = np.where(numbers % 2, ~(numbers // 2), numbers // 2)
            block[where] = numbers if kind == "plain" else block[where] + steps
    return values.tobytes()


def _planes(raw: bytes, width: int) -> Any:
    return np.frombuffer(raw, "u1").reshape(width, -1).T.copy().view(f"<u{width}").ravel()
