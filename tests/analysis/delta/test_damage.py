"""What is no delta, or is one no more, is refused in a sentence before anything is written; so is another base."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import zstandard
from safetensors import safe_open
from safetensors.numpy import load_file

from monitor.analysis.delta import apply as applying
from monitor.analysis.delta.container import DeltaFile
from monitor.analysis.delta.manifest import Manifest
from monitor.errors import BaseMismatchError, DeltaError, SparsityMonitorError
from tests.analysis.delta.checkpoints import Weights, apply, make, moved, save, weights


@pytest.fixture(name="base")
def _base(tmp_path: Path) -> Path:
    return save(tmp_path / "base", weights())


@pytest.fixture(name="delta")
def _delta(base: Path, tmp_path: Path) -> Path:
    finetuned = save(tmp_path / "finetuned", moved(weights()) | {"new": torch.ones(500)})
    make(base, finetuned, tmp_path / "it.delta")
    return tmp_path / "it.delta"


def refused(base: Path, delta: Path, error: type[SparsityMonitorError] = DeltaError) -> str:
    """The sentence that applying ends with; nothing may be left."""
    target = delta.parent / "again"
    before = sorted(delta.parent.iterdir())
    with pytest.raises(error) as raised:
        apply(base, delta, target)
    assert sorted(delta.parent.iterdir()) == before
    return str(raised.value)


def test_every_truncation_is_noticed(base: Path, delta: Path) -> None:
    whole = delta.read_bytes()
    for size in (0, 3, 8, 500, 1023, 1024, 1100, len(whole) // 2, len(whole) - 1):
        delta.write_bytes(whole[:size])
        assert "cut short" in refused(base, delta)
    delta.write_bytes(whole + b"\0")
    assert "its header promises" in refused(base, delta)


def test_every_byte_counts(base: Path, delta: Path) -> None:
    whole = delta.read_bytes()
    # What says which program wrote it may say anything, and so may the spaces after the header.
    free = range(whole.index(b"sparsity-monitor 0"), whole.index(b'"', whole.index(b"sparsity-monitor 0")))
    header = len(whole[:1024].rstrip())
    for place in [*(each for each in range(header) if each not in free), *range(1024, len(whole), 7)]:
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        delta.write_bytes(damaged)
        message = refused(base, delta)
        assert place < 1024 or "is damaged" in message


def test_a_newer_format_is_refused(base: Path, delta: Path) -> None:
    delta.write_bytes(delta.read_bytes().replace(b'"format_version": "1"', b'"format_version": "2"'))
    assert "has format version 2, and this version of sparsity-monitor reads up to 1; update" in refused(base, delta)


def test_other_files_are_no_deltas(base: Path, tmp_path: Path) -> None:
    assert "no delta" in refused(base, base / "model.safetensors")
    assert "no delta" in refused(base, base / "config.json")
    with pytest.raises(DeltaError, match=r"cannot read.*No such file"):
        DeltaFile(tmp_path / "nowhere.delta")
    with pytest.raises(DeltaError, match=r"cannot read.*directory"):
        DeltaFile(base)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tensors: tensors | moved(tensors), r"different is (embed|layer|norm).weight"),
        (lambda tensors: {n: t for n, t in tensors.items() if n != "layer.weight"}, "it has no layer.weight"),
        (lambda tensors: tensors | {"norm.weight": torch.ones(9).bfloat16()}, "it has norm.weight, but not"),
        (lambda tensors: tensors | {"norm.weight": tensors["norm.weight"].float()}, "but not .8. in BF16"),
    ],
)
def test_another_base_is_refused(change: Callable[[Weights], Weights], said: str, delta: Path, tmp_path: Path) -> None:
    other = save(tmp_path / "other", change(weights()))
    message = refused(other, delta, BaseMismatchError)
    assert re.search(said, message), message
    assert "was made from the base 'base', and 'other' has other weights" in message


def test_one_bit_makes_another_base(delta: Path, tmp_path: Path) -> None:
    tensors = weights()
    tensors["norm.weight"].view(torch.int16)[-1] ^= 1
    assert "norm.weight" in refused(save(tmp_path / "other", tensors), delta, BaseMismatchError)


def test_what_the_delta_does_not_use_may_differ(delta: Path, tmp_path: Path) -> None:
    apply(save(tmp_path / "other", weights() | {"more": torch.ones(2)}), delta, tmp_path / "again")


def test_weights_that_come_out_differently_are_not_left(
    base: Path, delta: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = applying.decode

    def wrong(*arguments: Any) -> Any:
        bits = decode(*arguments).copy()
        bits[-1] ^= 1
        return bits

    monkeypatch.setattr(applying, "decode", wrong)
    assert "does not come out with the checksum" in refused(base, delta)


def forge(delta: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Write a delta whose checksums are right, and whose manifest is somebody's own."""
    with safe_open(delta, "np") as file:
        metadata = file.metadata()
    stored = load_file(delta)
    manifest = json.loads(zstandard.decompress(stored["manifest"].tobytes()))
    change(manifest)
    text = json.dumps(manifest).encode()
    frame = zstandard.compress(text)
    metadata |= {"manifest_sha256": hashlib.sha256(frame).hexdigest(), "manifest_size": str(len(text))}
    content = stored["frames"].tobytes() + frame
    entries = {
        "frames": {"dtype": "U8", "shape": [len(content) - len(frame)], "data_offsets": [0, len(content) - len(frame)]},
        "manifest": {"dtype": "U8", "shape": [len(frame)], "data_offsets": [len(content) - len(frame), len(content)]},
    }
    header = json.dumps({"__metadata__": metadata, **entries}).encode()
    delta.write_bytes(len(header).to_bytes(8, "little") + header + content)


NASTY_PATHS = ["../x", "/etc/x", "a/../../x", "..", ".", "", "a//b", "a\\..\\x", "C:x", "a\0b", "a\nb", "x" * 300]


@pytest.mark.parametrize("path", NASTY_PATHS)
@pytest.mark.parametrize("kind", ["files", "shards"])
def test_no_path_leads_elsewhere(path: str, kind: str, base: Path, delta: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest[kind][0]["path"] = path

    forge(delta, change)
    assert "contradicts itself: it would write to" in refused(base, delta)


def _tensor(manifest: dict[str, Any], name: str = "new") -> dict[str, Any]:
    return next(tensor for tensor in manifest["tensors"] if tensor["name"] == name)


def _source(name: str, **changes: object) -> dict[str, Any]:
    return {"of": "base", "name": name, "sha256": "0" * 64, "dtype": "F32", "shape": [500], **changes}


CONTRADICTIONS: dict[str, Callable[[dict[str, Any]], object]] = {
    "a bomb": lambda m: _tensor(m).update(shape=[1 << 50]),
    "more than all numbers": lambda m: _tensor(m).update(shape=[1 << 62, 1 << 62]),
    "a frame larger than its block": lambda m: _tensor(m)["blocks"][0].__setitem__(2, 1 << 40),
    "more changes than values": lambda m: _tensor(m)["blocks"][0].__setitem__(1, 1 << 40),
    "frames of another file": lambda m: _tensor(m).update(start=1 << 40),
    "negative": lambda m: _tensor(m)["blocks"][0].__setitem__(3, -5),
    "an unknown kind": lambda m: _tensor(m)["blocks"][0].__setitem__(0, "pickle"),
    "no blocks and no source": lambda m: _tensor(m).update(blocks=[]),
    "blocks that are missing": lambda m: m.update(block_values=100),
    "steps from nothing": lambda m: _tensor(m)["blocks"][0].__setitem__(0, "all"),
    "a copy of itself": lambda m: _tensor(m).update(
        blocks=[], source=_source("new", of="finetuned", sha256=_tensor(m)["sha256"])
    ),
    "a large file": lambda m: m["files"][0]["frame"].update(size=1 << 40),
    "a large header": lambda m: m["shards"][0]["header"].update(size=1 << 40),
    "a source of another kind": lambda m: _tensor(m, "norm.weight")["source"].update(dtype="F16"),
    "two tensors of a name": lambda m: _tensor(m).update(name="norm.weight"),
    "a checksum of another": lambda m: m["finetuned"].update(checksum="0" * 64),
    "a base of another": lambda m: m["base"].update(checksum="0" * 64),
    "fewer tensors than in its shards": lambda m: m["shards"][0].update(tensors=3),
    "two files of a name": lambda m: m["files"][0].update(path="MODEL.safetensors"),
    "other words": lambda m: m.update(comment="hello"),
    "a text for a number": lambda m: _tensor(m).update(start="0"),
}


@pytest.mark.parametrize("change", CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_a_manifest_that_contradicts_itself_is_refused(
    change: Callable[[dict[str, Any]], object], base: Path, delta: Path
) -> None:
    forge(delta, change)
    assert "manifest" in refused(base, delta)


def test_what_is_forged_all_over_makes_no_more_than_it_says(base: Path, delta: Path) -> None:
    """A tensor of zeros as large as it likes: the room that it takes is known before anything is written."""

    def change(manifest: dict[str, Any]) -> None:
        tensor, (shard,) = _tensor(manifest), manifest["shards"]
        count = 1 << 44
        shard["size"] += 4 * (count - 500)
        tensor.update(shape=[count], changed=0, source=None, blocks=[])
        tensor["source"] = _source("norm.weight", shape=[count])
        lines = sorted({f"{s['sha256']}  {s['name']}\n" for t in manifest["tensors"] if (s := t["source"])})
        manifest["base"]["checksum"] = hashlib.sha256("".join(lines).encode()).hexdigest()

    forge(delta, change)
    assert "there is no space" in refused(base, delta)


def test_a_manifest_comes_back_from_its_own_text(delta: Path) -> None:
    manifest = DeltaFile(delta).manifest
    assert Manifest.from_json(manifest.model_dump_json().encode()) == manifest
