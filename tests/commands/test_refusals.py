"""Every command as a process, in a pipe: what it cannot do ends it with a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands.every import every_command
from tests.commands.running import PLAIN, nursery

# One worker forks them all.
pytestmark = pytest.mark.xdist_group("commands")

# Nobody listens there.
_NOBODY = "127.0.0.1:1"

# A command, with what cannot be → what it says of that.
_CASES = {
    f"serve --grpc-address 127.0.0.1:0 --http-address {_NOBODY} --store-url sqlite:////proc/store.db": "/proc/store.db",
    f"export grpo-1 -o run.csv --service-url http://{_NOBODY}": f"cannot reach a service at http://{_NOBODY}",
    "push /nowhere": "there is no spool.sqlite in '/nowhere'",
    "report /nowhere -o report.html": "there is no spool.sqlite in '/nowhere'",
    f"runs list --service-url http://{_NOBODY}": f"cannot reach a service at http://{_NOBODY}",
    f"runs show grpo-1 --service-url http://{_NOBODY}": f"cannot reach a service at http://{_NOBODY}",
    f"runs watch grpo-1 --service-url http://{_NOBODY}": f"cannot reach a service at http://{_NOBODY}",
    "store backup copy.db": "there is no store at",
    "store info": "there is no store at",
    "store delete grpo-1": "there is no store at",
    "store thin grpo-1": "there is no store at",
    "store compact": "there is no store at",
    "backup copy.db": "there is no store at",
    "runs delete grpo-1": "there is no store at",
    "token create name --scope write --store-url sqlite:////proc/store.db": "/proc/store.db",
    "token list": "there is no store at",
    "token revoke name": "there is no store at",
    f"grafana apply --url http://{_NOBODY} --token x": f"http://{_NOBODY} cannot be reached: Connection refused",
    f"grafana delete --url http://{_NOBODY} --token x": f"http://{_NOBODY} cannot be reached: Connection refused",
    "grafana generate /proc/dashboards": "'/proc/dashboards' cannot be used: No such file or directory. Give another",
    "mask make lowest:0.1 /nowhere -o made.safetensors": "'/nowhere'",
    "mask overlap /nowhere /nowhere": "cannot read a mask from '/nowhere': No such file",
    "mask info /nowhere": "cannot read a mask from '/nowhere': No such file",
    "mask union /nowhere /nowhere -o made.safetensors": "cannot read a mask from '/nowhere': No such file",
    "mask intersection /nowhere /nowhere -o made.safetensors": "cannot read a mask from '/nowhere': No such file",
    "mask consensus /nowhere /nowhere --at-least 2 -o made.safetensors": "read a mask from '/nowhere': No such file",
    "mask difference /nowhere /nowhere -o made.safetensors": "cannot read a mask from '/nowhere': No such file",
    "mask convert /nowhere made.npz": "'/nowhere' is no file; expected a mask",
    "diff /nowhere /nowhere": "'/nowhere' was given twice",
    "structure /nowhere /nowhere": "'/nowhere' was given twice",
    "delta make /nowhere /nowhere -o made.delta": "'/nowhere'",
    "delta apply /nowhere /nowhere -o made": "'/nowhere'",
    "delta info /nowhere": "cannot read '/nowhere': No such file",
}


def test_every_command_is_tried() -> None:
    tried = [line.split() for line in _CASES]
    # What it finds amiss is its output: see test_doctor.py.
    untried = [words for words, _ in every_command() if not any(line[: len(words)] == [*words] for line in tried)]
    assert untried == [("doctor",)]


@pytest.mark.parametrize(("line", "said"), _CASES.items())
def test_what_cannot_be_done_ends_a_process_with_a_sentence(line: str, said: str, tmp_path: Path) -> None:
    done = nursery().run(line.split(), env=PLAIN, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert "[Errno" not in done.stderr
    assert list(tmp_path.iterdir()) == [], "nothing is half-written"
