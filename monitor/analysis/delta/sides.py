"""The two checkpoints of a delta: their weights, and the directory with what belongs to them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from monitor.analysis.delta.carried import encodable
from monitor.analysis.files import CheckpointFiles
from monitor.errors import CheckpointError, DeltaError

_WEIGHTS = ["*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.onnx*", "*.gguf"]


@dataclass(frozen=True)
class Checkpoint:
    """A base, or what was made of it.

    Attributes:
        source: what was given: a directory, a file or a hub id.
        files: its weights.
    """

    source: str
    files: CheckpointFiles

    @classmethod
    def open(cls, source: str) -> Checkpoint:
        """Look into a directory, a file or a hub id.

        Raises:
            CheckpointError: it has no weights that can be read.
            DeltaError: it is an adapter.
        """
        files = CheckpointFiles.open(source)
        if not Path(source).is_file() and files.json("adapter_config.json") is not None:
            raise DeltaError(
                f"{source!r} is an adapter, which is a difference to its base already: ship it as it is. For a delta, "
                "merge it first (`merge_and_unload` of PEFT), and save the model."
            )
        return cls(source, files)

    @property
    def name(self) -> str:
        """What it is called: a hub id, or the name of its directory or file, which says nothing of this machine."""
        path = Path(self.source)
        return encodable(path.resolve().name if path.exists() else self.source)

    def directory(self) -> Path | None:
        """Return where it is, with its small files; None where a single file was given.

        Raises:
            CheckpointError: they are on the hub, and cannot be had.
        """
        path = Path(self.source)
        if path.is_file():
            return None
        return path if path.is_dir() else _snapshot(self.source)


def _snapshot(source: str) -> Path:
    """Return the local copy of a repository of the hub, with its small files, which are downloaded if need be."""
    from huggingface_hub import snapshot_download

    name, _, revision = source.partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None, ignore_patterns=_WEIGHTS))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"cannot have the configuration and tokenizer of {source!r} from the hub: {str(error).splitlines()[0]} "
            "Download it where there is a network (`hf download`), or give a directory."
        ) from error
