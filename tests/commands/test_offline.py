"""How the commands that ask no service end where whoever reads what they print has enough."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from monitor.cli import main
from tests.analysis.models import changed, dense_model, saved


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a base, and what was made of it."""
    directory = tmp_path_factory.mktemp("made")
    model = dense_model()
    saved(model, directory / "base")
    saved(changed(model), directory / "tuned")
    return directory


def _into_a_closed_pipe(line: str, monkeypatch: pytest.MonkeyPatch) -> object:
    """Run a command whose output nobody reads, and return its exit status."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as unread, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", unread)
        patched.setattr(sys, "argv", ["sparsity-monitor", *line.split()])
        with pytest.raises(SystemExit) as ended:
            main()
        # So that it can be closed.
        with open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), write)
    return ended.value.code


@pytest.mark.parametrize("options", ["", " --json"])
def test_an_offline_command_ends_quietly_where_its_reader_left(
    options: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    base, tuned = made / "base", made / "tuned"
    for line in (
        f"diff {base} {tuned} --mask a.safetensors",
        "mask info a.safetensors",
        "mask overlap a.safetensors a.safetensors",
        "mask union a.safetensors a.safetensors -o b.safetensors",
        "mask convert a.safetensors a.npz",
        f"structure {base} {tuned} --only *q_proj*",
        f"structure {base} {tuned}",
        f"delta make {base} {tuned} -o file.delta",
        "delta info file.delta",
        f"delta apply {base} file.delta -o back",
    ):
        assert _into_a_closed_pipe(line + options, monkeypatch) == 141, line
    assert "pipe" not in capfd.readouterr().err
