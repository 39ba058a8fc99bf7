"""A file or a directory is there as a whole, or not at all, whatever becomes of the process that writes it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from monitor.analysis.delta.apply import check_target
from monitor.analysis.delta.container import DeltaFile
from monitor.analysis.delta.incomplete import whole_directory, whole_file
from monitor.errors import DeltaError
from tests.analysis.delta.checkpoints import apply, make, moved, save, weights
from tests.mounts import fill, read_only, small_disk

# Writes a part, says so, and waits for its end.
_WRITER = """
import sys
from pathlib import Path
from monitor.analysis.delta.incomplete import whole_directory, whole_file
target = Path(sys.argv[2])
if sys.argv[1] == "file":
    with whole_file(target) as file:
        file.write(b"half")
        file.flush()
        print("writing", flush=True)
        sys.stdin.read()
else:
    with whole_directory(target) as directory:
        (directory / "half").write_bytes(b"half")
        print("writing", flush=True)
        sys.stdin.read()
"""


@contextmanager
def somebody_writing(kind: str, target: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", _WRITER, kind, str(target)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "writing\n"
        try:
            yield writer
        finally:
            writer.kill()


@contextmanager
def _writing(kind: str, target: Path) -> Iterator[None]:
    if kind == "file":
        with whole_file(target) as file:
            file.write(b"whole")
            yield
    else:
        with whole_directory(target) as directory:
            (directory / "whole").write_bytes(b"whole")
            yield


def is_whole(kind: str, target: Path) -> bool:
    return (target if kind == "file" else target / "whole").read_bytes() == b"whole"


KINDS = pytest.mark.parametrize("kind", ["file", "directory"])


@KINDS
def test_it_has_its_name_only_when_it_is_complete(kind: str, tmp_path: Path) -> None:
    with _writing(kind, tmp_path / "new" / "it"):
        assert [path.name for path in (tmp_path / "new").iterdir()] == ["it.sparsity-monitor.incomplete"]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["it"]
    assert is_whole(kind, tmp_path / "new" / "it")


@KINDS
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_leaves_nothing(kind: str, error: type[BaseException], tmp_path: Path) -> None:
    with pytest.raises(error), _writing(kind, tmp_path / "it"):
        raise error
    assert not list(tmp_path.iterdir())


@KINDS
def test_what_a_killed_process_left_has_another_name_and_is_removed_by_the_next(kind: str, tmp_path: Path) -> None:
    with somebody_writing(kind, tmp_path / "it") as writer:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    assert [path.name for path in tmp_path.iterdir()] == ["it.sparsity-monitor.incomplete"]
    with _writing(kind, tmp_path / "it"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["it"]
    assert is_whole(kind, tmp_path / "it")


@KINDS
def test_two_at_once_do_not_meet(kind: str, tmp_path: Path) -> None:
    with (
        somebody_writing(kind, tmp_path / "it"),
        pytest.raises(DeltaError, match="another process is writing"),
        _writing(kind, tmp_path / "it"),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["it.sparsity-monitor.incomplete"]


def test_a_directory_with_something_in_it_is_kept(tmp_path: Path) -> None:
    (tmp_path / "it").mkdir()
    (tmp_path / "it" / "precious").touch()
    with pytest.raises(DeltaError, match="is there already"), whole_directory(tmp_path / "it"):
        pass
    assert [path.name for path in (tmp_path / "it").iterdir()] == ["precious"]


def test_an_empty_directory_is_filled_also_where_its_path_has_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "it").mkdir()
    monkeypatch.chdir(tmp_path / "it")
    with _writing("directory", Path(".")):
        pass
    assert is_whole("directory", tmp_path / "it")
    assert [path.name for path in tmp_path.iterdir()] == ["it"]


def write_until_it_is_full(target: Path) -> None:
    with whole_directory(target) as directory:
        fill(directory)
        (directory / "more").write_bytes(bytes(100_000))


def test_no_space_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    base = save(tmp_path / "base", weights(rows=40_000))
    finetuned = save(tmp_path / "finetuned", moved(weights(rows=40_000)))
    make(base, finetuned, tmp_path / "it.delta")
    with small_disk(tmp_path / "disk") as disk:
        with pytest.raises(DeltaError, match=r"no space for .*: 64\d,\d{3} bytes are needed"):
            apply(base, tmp_path / "it.delta", disk / "again")
        # Another process takes the space meanwhile.
        with pytest.raises(DeltaError, match="there is no space"):
            write_until_it_is_full(disk / "again")
        assert not list(disk.iterdir())
        fill(disk)
        with pytest.raises(DeltaError, match="there is no space"):
            make(base, finetuned, disk / "it.delta")
        assert [path.name for path in disk.iterdir()] == ["filling"]


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with (
        read_only(tmp_path / "disk") as disk,
        pytest.raises(DeltaError, match=r"cannot write .*: Read-only"),
        whole_file(disk / "it"),
    ):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(DeltaError, match=r"cannot write .*file"), whole_directory(tmp_path / "file" / "it"):
        pass


def test_a_place_that_cannot_be_written_is_said_before_the_base_is_read(tmp_path: Path) -> None:
    base, finetuned = save(tmp_path / "base", weights()), save(tmp_path / "finetuned", moved(weights()))
    make(base, finetuned, tmp_path / "it.delta")
    with read_only(tmp_path / "disk") as disk:
        with pytest.raises(DeltaError, match=r"disk' cannot be written to\. Give another place"):
            check_target(DeltaFile(tmp_path / "it.delta"), disk / "again")
        with pytest.raises(DeltaError, match=r"disk' cannot be written to\. Give another place"):
            apply(base, tmp_path / "it.delta", disk / "again")
