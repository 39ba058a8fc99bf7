"""What TensorBoard, Trackio and W&B themselves have written, read from their own files, after `attach`."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.tiny import save_model

Series = dict[str, dict[int, float]]

SPARSITIES = ("sparsity/cumulative_sparsity", "sparsity/step_sparsity", "sparsity/update_norm")

# A process of its own: trackers keep what they are told by the environment from their first import on.
TRAINING = """
import json
import sys
from pathlib import Path
from monitor import SparsityCallback
from tests.tiny import common_arguments, sft_trainer

if __name__ == "__main__":
    model, output = map(Path, sys.argv[1:])
    arguments = common_arguments(output, max_steps=3, gradient_accumulation_steps=1)
    arguments |= {"report_to": ["tensorboard", "trackio", "wandb"], "run_name": "tiny"}
    trainer = sft_trainer(model, arguments, [])
    SparsityCallback(None).attach(trainer)
    trainer.train()
    print("history", json.dumps(trainer.state.log_history))
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the trackers write."""
    return tmp_path_factory.mktemp("tracked")


@pytest.fixture(scope="module")
def expected(directory: Path) -> Series:
    """Train with all three trackers; return the trainer's own history of the sparsities."""
    model = save_model(directory / "model")
    environment = os.environ | {
        "TENSORBOARD_LOGGING_DIR": str(directory),
        "TRACKIO_DIR": str(directory),
        "WANDB_DIR": str(directory),
        "WANDB_MODE": "offline",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    script = directory / "training.py"
    script.write_text(TRAINING)
    finished = subprocess.run(
        [sys.executable, str(script), str(model), str(directory / "output")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-4000:]
    (line,) = [line for line in finished.stdout.splitlines() if line.startswith("history ")]
    entries = [entry for entry in json.loads(line.removeprefix("history ")) if "loss" in entry]
    series = {f"train/{name}": {entry["step"]: entry[name] for entry in entries} for name in SPARSITIES}
    assert all(list(values) == [1, 2, 3] for values in series.values())
    return series


def test_tensorboard_shows_the_sparsities(directory: Path, expected: Series) -> None:
    events = EventAccumulator(str(directory))
    events.Reload()
    written = {tag: {event.step: event.value for event in events.Scalars(tag)} for tag in expected}
    # TensorBoard keeps float32.
    assert written == {tag: pytest.approx(values, rel=1e-6) for tag, values in expected.items()}


def test_trackio_shows_the_sparsities(directory: Path, expected: Series) -> None:
    (database,) = [path for path in directory.glob("*.db") if not path.name.startswith("_")]
    with contextlib.closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("SELECT metrics FROM metrics").fetchall()
    logged = [json.loads(metrics) for (metrics,) in rows]
    written = {
        name: {entry["train/global_step"]: entry[name] for entry in logged if name in entry} for name in expected
    }
    assert written == expected


def wandb_records(path: Path) -> Iterator[bytes]:
    """Read the file of an offline run: 7 bytes of header, then a LevelDB log (blocks of 32 KiB, records in pieces)."""
    data = path.read_bytes()
    block, header, last_pieces = 32_768, 7, (1, 4)
    at, record = header, b""
    while at + header <= len(data):
        if block - at % block < header:
            at += block - at % block
            continue
        _, size, piece = struct.unpack_from("<IHB", data, at)
        record += data[at + header : at + header + size]
        at += header + size
        if piece in last_pieces:
            yield record
            record = b""


def test_weights_and_biases_shows_the_sparsities(directory: Path, expected: Series) -> None:
    from wandb.proto import wandb_internal_pb2

    (path,) = directory.glob("wandb/offline-run-*/run-*.wandb")
    written: Series = {name: {} for name in expected}
    for record in wandb_records(path):
        items = wandb_internal_pb2.Record.FromString(record).history.item
        entry = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
        for name in written.keys() & entry.keys():
            written[name][entry["train/global_step"]] = entry[name]
    assert written == expected
