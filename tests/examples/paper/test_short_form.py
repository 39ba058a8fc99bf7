"""The short form as one command, killed in between and run again: every part of the code once."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from paper import reproduce
from paper.experiments import short_experiments
from paper.results import RESULT_FILE, WEIGHTS_FOLDER, Result, read_result

from monitor import UpdateMask
from monitor.wire import monitor_pb2 as pb
from tests.counting import changed_by_group
from tests.eventually import eventually
from tests.service.running import Client

# They look at one reproduction.
pytestmark = pytest.mark.xdist_group("paper")

ROOT = Path(__file__).parents[3]
# So short, they may not sample one right answer to learn from.
SAMPLING = ("grpo", "rloo", "ppo")
NAMES = [experiment.name for experiment in short_experiments()]


class Reproduced(NamedTuple):
    output: Path
    report: Path
    kept: dict[str, int]
    said: str


def command(output: Path, client: Client) -> subprocess.Popen[str]:
    arguments = ["--short", "--once", f"--output={output}", f"--target={client.listening.grpc_address}", "--jobs=1"]
    return subprocess.Popen(
        [sys.executable, "-m", "paper.reproduce", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT / "examples"), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finished(output: Path) -> dict[str, int]:
    """When each experiment that has a result got it."""
    paths = {name: output / name / RESULT_FILE for name in NAMES}
    return {name: path.stat().st_mtime_ns for name, path in paths.items() if path.exists()}


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory: pytest.TempPathFactory, client: Client) -> Reproduced:
    output = tmp_path_factory.mktemp("paper") / "runs"
    with command(output, client) as killed:
        eventually(lambda: bool(finished(output)), seconds=600)
        os.kill(killed.pid, signal.SIGKILL)
        # It returns when nobody writes there any more: what it had started has ended, too.
        killed.communicate(timeout=60)
    kept = finished(output)
    with command(output, client) as again:
        said, _ = again.communicate(timeout=800)
    assert again.returncode == 0, said
    return Reproduced(output, output / "REPORT.md", kept, said)


def result(reproduced: Reproduced, name: str) -> Result:
    found = read_result(reproduced.output / name)
    assert found is not None, name
    return found


def test_what_had_finished_when_it_was_killed_is_not_repeated(reproduced: Reproduced) -> None:
    now = finished(reproduced.output)
    assert 0 < len(reproduced.kept) < len(NAMES)
    assert {name: now[name] for name in reproduced.kept} == reproduced.kept
    assert f"{len(reproduced.kept)} of {len(NAMES)} trainings have finished before" in reproduced.said
    told = re.findall(r"^ *\d+/\d+ (\S+) ", reproduced.said, re.MULTILINE)
    assert sorted([*told, *reproduced.kept]) == sorted(NAMES)


def test_every_training_arrives_at_the_service(reproduced: Reproduced, client: Client) -> None:
    for name in NAMES:
        found = result(reproduced, name)
        eventually(lambda run_id=found.run_id: client.is_over(run_id))
        run = client.run(found.run_id)
        assert run.state == pb.RunSummary.STATE_FINISHED
        assert run.registration.name == f"paper {name}"
        assert run.registration.labels["algorithm"] == found.experiment.algorithm.upper()
        assert run.last_step == found.step == 2


def test_results_have_the_counts_of_the_weights_that_are_left(reproduced: Reproduced) -> None:
    for name in NAMES:
        found = result(reproduced, name)
        mask = UpdateMask.load(found.directory / "sparsity_monitor" / "update_mask.safetensors")
        counted = changed_by_group(reproduced.output / "base-model", found.directory / WEIGHTS_FOLDER)
        assert found.changed == mask.count() == sum(counted.values()), name
        assert found.changed or name.startswith(SAMPLING), name
        assert mask.metadata.run_id == found.run_id
        assert found.curve[-1][1] == pytest.approx(1 - found.changed / found.trained)


def test_a_subnetwork_alone_is_trained(reproduced: Reproduced) -> None:
    full, alone = result(reproduced, "dpo").mask(), result(reproduced, "dpo-subnetwork").mask()
    assert alone.count() > 0
    assert (alone - full).count() == 0
    one_percent = result(reproduced, "grpo-random-1-percent")
    assert one_percent.changed < 0.012 * one_percent.trained


def test_the_report_has_every_claim_with_its_plot_and_says_that_it_is_short(reproduced: Reproduced) -> None:
    text = reproduced.report.read_text()
    sections = re.findall(r"^## (\d+)\. ", text, re.MULTILINE)
    assert sections == [str(number) for number in range(1, len(sections) + 1)]
    assert len(sections) == 12
    assert "no number below says anything" in text
    assert str(reproduced.output) not in text
    plots = re.findall(r"!\[[^]]+\]\((\S+)\)", text)
    assert len(plots) == len(sections)
    sizes = [(reproduced.report.parent / plot).stat().st_size for plot in plots]
    assert max(sizes) < 100_000
    assert sum(sizes) < 400_000


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--jobs=0", "'0' is not a number from 1 on"),
        ("--target=localhost", "expected"),
        ("--output=/dev/null/runs", "Error: /dev/null/runs cannot be made (Not a directory)."),
    ],
)
def test_what_cannot_work_is_said_before_anything_starts(
    option: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["reproduce.sh", "--short", option])
    with pytest.raises(SystemExit) as ended:
        reproduce.main()
    assert ended.value.code not in (0, None)
    told = capsys.readouterr().err + (ended.value.code if isinstance(ended.value.code, str) else "")
    assert said in " ".join(told.split())
