"""Output directories that break while the model trains, or that are odd from the start: the training goes on as without
the callback, and the service has, to the integer, what it has of a training in a healthy directory."""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from monitor import SparsityCallback, UpdateMask
from monitor.errors import SpoolError
from monitor.report.processes.locks import UPLOADER_LOCK
from monitor.report.spool.file import SPOOL_FILE
from monitor.report.spool.items import Spool
from monitor.wire import monitor_pb2 as pb
from tests.eventually import eventually
from tests.matrix.runs import recording
from tests.mounts import fill, mount, mounted, read_only, small_disk, unmount
from tests.removal import remove_in_use
from tests.service.running import COMMAND, Client, service_in_thread
from tests.spooled import spooled
from tests.tiny import common_arguments, plain_trainer

STEPS = 6
Break = Callable[[Path], None]


class At(TrainerCallback):
    """Does something to a training's surroundings when a step begins, which the training does not notice."""

    def __init__(self, **actions: Callable[[], object]) -> None:
        self.actions = actions

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.actions.get(f"step_{state.global_step}", lambda: None)()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.actions.get(f"save_{state.global_step}", lambda: None)()


@dataclass(frozen=True)
class Trained:
    """What is left of a training: its losses, the callback, and the number of ones in the mask that it wrote last."""

    losses: list[float]
    callback: SparsityCallback | None

    def mask(self, path: Path | None = None) -> int:
        assert self.callback is not None
        return UpdateMask.load(path or self.callback.directory / "update_mask.safetensors").count()


def train(
    model: Path,
    output: Path | str,
    callback: SparsityCallback | None,
    *,
    settings: dict[str, Any] | None = None,
    resume: Path | None = None,
    **actions: Callable[[], object],
) -> Trained:
    arguments = common_arguments(Path("unused"), max_steps=STEPS, learning_rate=1e-4, output_dir=str(output))
    callbacks = [At(**actions), *([callback] if callback else [])]
    trainer = plain_trainer(model, arguments | (settings or {}), callbacks)
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    return Trained([entry["loss"] for entry in trainer.state.log_history if "loss" in entry], callback)


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The places of temporary files, for this test alone."""
    for name in ("temporary", "memory"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr("monitor.report.spool.places._IN_MEMORY", str(tmp_path / "memory"))
    return tmp_path / "temporary"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of a real service that the tests share."""
    with service_in_thread(tmp_path_factory.mktemp("service") / "store.db") as client:
        yield client


@pytest.fixture(scope="module")
def healthy(model: Path, client: Client, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    callback = SparsityCallback(client.listening.grpc_address, "healthy")
    return train(model, tmp_path_factory.mktemp("healthy"), callback)


def arrived(client: Client, run_id: str) -> list[tuple[int, list[int]]]:
    """Step and counts of each observation that the service has, in the order in which it gives them."""
    items = [entry.item for entry in client.history(run_id)]
    assert len({item.sequence for item in items}) == len(items)
    return [(item.observation.step, list(item.observation.changed)) for item in items if item.HasField("observation")]


def assert_told_truthfully(client: Client, trained: Trained, healthy: Trained) -> None:
    """The run has ended, and all of it is there."""
    assert trained.callback is not None
    assert healthy.callback is not None
    run_id = trained.callback.run_id
    assert trained.losses == healthy.losses
    eventually(lambda: client.is_over(run_id))
    eventually(lambda: client.metric("run_unsent_items", run=run_id) == 0)
    run = client.run(run_id)
    assert (run.state, run.reason) == (pb.RunSummary.STATE_FINISHED, "")
    assert arrived(client, run_id) == arrived(client, healthy.callback.run_id)
    assert client.metric("run_dropped_items", run=run_id) == 0


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def assert_few_words(caplog: pytest.LogCaptureFixture, most: int) -> None:
    assert 1 <= len(told(caplog)) <= most, told(caplog)
    assert not [record for record in caplog.records if record.exc_info]


# ------------------------------------------------------------------------------------------------- what breaks


def removed(output: Path) -> None:
    remove_in_use(output)


def moved_away(output: Path) -> None:
    output.rename(output.with_name("moved"))


def turned_into_a_file(output: Path) -> None:
    remove_in_use(output)
    output.touch()


@pytest.mark.parametrize("breaks", [removed, moved_away, turned_into_a_file])
def test_a_directory_that_breaks_for_good_is_left_for_a_temporary_folder(
    breaks: Break,
    model: Path,
    client: Client,
    healthy: Trained,
    tmp_path: Path,
    temporary: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    output = tmp_path / "out"
    callback = SparsityCallback(client.listening.grpc_address, "broken")
    trained = train(model, output, callback, step_3=lambda: breaks(output))
    assert callback.directory.parent == temporary
    assert_told_truthfully(client, trained, healthy)
    assert trained.mask(callback.directory / "update_mask.safetensors") == healthy.mask()
    # What broke, where it goes on, and where the mask is.
    assert_few_words(caplog, 3)
    assert str(callback.directory) in "".join(told(caplog))
    # Nothing is made where it was taken away.
    assert not (output / "sparsity_monitor").exists()


def test_a_spool_that_is_overwritten_is_set_aside_and_begun_anew(
    model: Path, client: Client, healthy: Trained, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool = tmp_path / "out" / "sparsity_monitor" / SPOOL_FILE

    def overwrite() -> None:
        spool.write_bytes(b"of another program " * 1000)

    callback = SparsityCallback(client.listening.grpc_address, "overwritten")
    trained = train(model, tmp_path / "out", callback, step_3=overwrite)
    assert callback.directory == spool.parent
    assert_told_truthfully(client, trained, healthy)
    assert trained.mask() == healthy.mask()
    assert_few_words(caplog, 3)
    assert [path.name for path in spool.parent.glob(f"{SPOOL_FILE}.damaged-*")] == [f"{SPOOL_FILE}.damaged-1"]


def test_a_disk_that_is_full_until_after_the_end(
    model: Path, client: Client, healthy: Trained, tmp_path: Path, temporary: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with small_disk(tmp_path / "disk") as output:
        callback = SparsityCallback(client.listening.grpc_address, "full")
        trained = train(model, output, callback, step_3=lambda: fill(output))
        assert callback.directory.parent == temporary
        assert_told_truthfully(client, trained, healthy)
        assert trained.mask() == healthy.mask()
        assert_few_words(caplog, 3)
        (output / "filling").unlink()
        # What is left there does not tell of another end, whoever delivers it.
        pushed(output, client)
        assert_told_truthfully(client, trained, healthy)


def test_a_disk_that_is_full_together_with_that_of_temporary_files(
    model: Path, client: Client, healthy: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(tmp_path / "disk") as disk:
        (disk / "tmp").mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(disk / "tmp"))
        callback = SparsityCallback(client.listening.grpc_address, "full")
        trained = train(model, disk / "out", callback, step_3=lambda: fill(disk))
        assert callback.directory.parent == tmp_path / "memory"
        assert_told_truthfully(client, trained, healthy)
        assert trained.mask() == healthy.mask()


def pushed(directory: Path, client: Client) -> str:
    command = [COMMAND, "push", str(directory), "--target", client.listening.grpc_address]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


# --------------------------------------------------------------------------------------------- what comes back


def test_a_disk_that_has_room_again_goes_on_where_it_was(
    model: Path, client: Client, healthy: Trained, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk") as output:
        callback = SparsityCallback(client.listening.grpc_address, "full")
        free = (output / "filling").unlink
        trained = train(model, output, callback, step_2=lambda: fill(output), step_5=free)
        assert callback.directory == output / "sparsity_monitor"
        assert_told_truthfully(client, trained, healthy)
        assert trained.mask() == healthy.mask()


@pytest.mark.parametrize("how", ["removed and made again", "moved away and back", "mounted again", "the file alone"])
def test_a_directory_that_comes_back_has_the_spool_again(
    how: str, model: Path, client: Client, healthy: Trained, tmp_path: Path
) -> None:
    output, disk = tmp_path / "out", tmp_path / "disk"
    for directory in (output, disk):
        directory.mkdir()
    callback = SparsityCallback(client.listening.grpc_address, "back")
    ways: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "removed and made again": (lambda: remove_in_use(output), output.mkdir),
        "moved away and back": (lambda: output.rename(tmp_path / "x"), lambda: (tmp_path / "x").rename(output)),
        "mounted again": (lambda: unmount(output), lambda: mount(disk, output)),
        "the file alone": ((output / "sparsity_monitor" / SPOOL_FILE).unlink, lambda: None),
    }
    goes, comes = ways[how]
    with mounted(disk, output) if how == "mounted again" else nullcontext():
        trained = train(model, output, callback, step_2=goes, step_5=comes)
        assert callback.directory == output / "sparsity_monitor"
        assert_told_truthfully(client, trained, healthy)
        assert trained.mask() == healthy.mask()


# ------------------------------------------------------------------------------------------- odd from the start


def test_an_output_directory_that_cannot_be_written(
    model: Path, client: Client, healthy: Trained, tmp_path: Path, temporary: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with read_only(tmp_path / "out") as output:
        callback = SparsityCallback(client.listening.grpc_address, "read-only")
        trained = train(model, output, callback)
        assert callback.directory.parent == temporary
        assert_told_truthfully(client, trained, healthy)
        assert trained.mask() == healthy.mask()
        assert_few_words(caplog, 1)
        with pytest.raises(SpoolError, match=r"Read-only file system.*give another one"):
            train(model, output, recording(strict=True))
        with pytest.raises(SpoolError, match=r"Read-only file system.*give another one"):
            train(model, tmp_path / "elsewhere", recording(directory=output / "spool"))


NAMES = {
    "not UTF-8": os.fsdecode(b"r\xff\xfeun"),
    "spaces and quotes": """a 'b' "c" """,
    "of a URI": "file:a?mode=ro#%41",
    "of a shell": "-$HOME;~*",
    "several lines": "a\nb\tc",
    "emoji": "run 🚀",
    "as long as a name may be": "x" * 255,
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_directory_of_any_name(
    name: str,
    model: Path,
    healthy: Trained,
    client: Client,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    callback = SparsityCallback(None)
    trained = train(model, name, callback)
    assert trained.losses == healthy.losses
    assert callback.directory == tmp_path / name / "sparsity_monitor"
    assert trained.mask() == healthy.mask()
    observations = [(each.step, list(each.changed)) for each in spooled(callback, "observation")]
    assert observations == arrived(client, healthy.callback.run_id)
    assert not told(caplog)


def uploader_in(directory: Path) -> int:
    """The process that has the uploader's lock."""
    asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    with (directory / UPLOADER_LOCK).open("r+b") as file:
        return int(struct.unpack("hhqqi4x", fcntl.fcntl(file, fcntl.F_GETLK, asked))[4])


def test_the_command_that_delivers_what_is_left_works_when_it_is_pasted(
    model: Path, client: Client, healthy: Trained, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name = os.fsdecode('-it\'s a "b" $HOME;~* 🚀\n'.encode() + b"\xff#?%41")
    # Nobody listens there.
    callback = SparsityCallback("127.0.0.1:1")
    trained = train(model, tmp_path / name, callback)
    (record,) = [record for record in told(caplog) if "sparsity-monitor push" in record]
    # A log file takes it, too.
    record.encode()
    command = record[record.index("sparsity-monitor push") :].replace("127.0.0.1:1", client.listening.grpc_address)
    os.kill(uploader_in(callback.directory), signal.SIGKILL)
    path = f"{Path(COMMAND).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=False, env={**os.environ, "PATH": path}
    )
    assert done.returncode == 0, done.stderr
    assert_told_truthfully(client, trained, healthy)
    assert client.run(callback.run_id).registration.name.startswith("-it's a")


def test_a_path_that_sqlite_does_not_take(
    model: Path, client: Client, healthy: Trained, tmp_path: Path, temporary: Path
) -> None:
    output = tmp_path.joinpath(*["d" * 200] * 4)
    callback = SparsityCallback(client.listening.grpc_address, "long")
    trained = train(model, output, callback)
    assert callback.directory.parent == temporary
    assert_told_truthfully(client, trained, healthy)
    assert trained.mask() == healthy.mask()


def test_a_training_that_changes_its_working_directory(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, healthy: Trained
) -> None:
    for name in ("first", "then"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "first")
    callback = recording()
    trained = train(model, "out", callback, step_3=lambda: os.chdir(tmp_path / "then"))
    assert callback.directory == tmp_path / "first" / "out" / "sparsity_monitor"
    assert trained.mask() == healthy.mask()
    with closing(Spool(callback.directory)) as spool:
        assert [attempt.finished for attempt in spool.attempts()] == [True]


# ----------------------------------------------------------------------------------------------- masks alone


def test_a_mask_that_cannot_be_written_where_it_belongs_is_written_elsewhere(
    model: Path, healthy: Trained, tmp_path: Path, temporary: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "out"
    # What the mask is written to before it has its name.
    taken = output / "sparsity_monitor" / ".update_mask.safetensors.partial"
    trained = train(model, output, recording(), step_1=taken.mkdir)
    assert trained.losses == healthy.losses
    (mask,) = temporary.glob("*/update_mask.safetensors")
    assert trained.mask(mask) == healthy.mask()
    (words,) = told(caplog)
    assert str(mask) in words
    assert str(taken) in words


def test_touched_weights_that_cannot_be_written_beside_a_checkpoint(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saving = {"save_strategy": "steps", "save_steps": 3}
    whole = train(model, tmp_path / "whole", recording(), settings=saving)
    checkpoint = tmp_path / "out" / "checkpoint-3"
    train(model, tmp_path / "out", recording(), settings=saving, save_3=(checkpoint / "sparsity_monitor").touch)
    (words,) = told(caplog)
    (checkpoint / "sparsity_monitor").unlink()
    subprocess.run(["bash", "-c", words[words.index("cp -r") :]], check=True)
    caplog.clear()
    resumed = train(model, tmp_path / "out", recording(), settings=saving, resume=checkpoint)
    assert not told(caplog)
    assert resumed.callback.last_observation.touched.tolist() == whole.callback.last_observation.touched.tolist()
