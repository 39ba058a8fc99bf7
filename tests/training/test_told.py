"""What a healthy run prints: where to look and what is measured at its start, what came of it at its end."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tqdm import tqdm
from transformers import TrainerCallback

from monitor import SparsityCallback
from monitor.training.told import tell
from tests.service.running import Client, service_in_thread
from tests.tiny import common_arguments, save_model, sft_trainer

NOWHERE = "127.0.0.1:1"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with service_in_thread(tmp_path_factory.mktemp("service") / "store.db", max_labels=1) as client:
        yield client


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


def train(model: Path, output: Path, target: str | None, **settings: Any) -> SparsityCallback:
    callback = SparsityCallback(target, "a run", **settings)
    sft_trainer(model, common_arguments(output, bf16_weights=True), [callback]).train()
    return callback


def told(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("sparsity-monitor: ")]


def test_a_run_says_where_to_look_and_how_it_went(
    model: Path, client: Client, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    callback = train(model, tmp_path, client.listening.grpc_address, every=2)
    lines = told(capsys)
    run_id, last, target = callback.run_id, callback.last_observation, client.listening.grpc_address
    assert last is not None
    assert last.cumulative_sparsity is not None
    groups = sum(group.trained_weights > 0 for group in last.groups)
    assert lines[0] == f"sparsity-monitor: run 'a run' ({run_id}), reporting to {target}"
    measured = f"{last.trained_weights:,} trained weights in {groups} groups"
    assert lines[1] == f"sparsity-monitor: {measured}, bits in bfloat16, every 2 steps"
    assert lines[2].startswith(f"sparsity-monitor: base {model}, a copy beside the weights; ")
    assert lines[2].endswith("B held")
    assert lines[3] == f"sparsity-monitor: run {run_id} ended after 2 observations, the last at step {last.step}"
    assert lines[4].startswith(
        f"sparsity-monitor: cumulative sparsity {100 * last.cumulative_sparsity:.2f} %, step spa"
    )
    assert lines[4].endswith("% (bits in bfloat16)")
    assert lines[5:] == [f"sparsity-monitor: delivered to {target}"]
    assert not [record for record in caplog.records if record.name.startswith("monitor.")]


def test_without_a_target_the_run_says_where_it_is_kept(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    callback = train(model, tmp_path / "out put", None)
    lines = told(capsys)
    assert lines[0].endswith(f", recorded in {callback.directory}")
    assert lines[-1].endswith(f"push '{callback.directory}' --target HOST:PORT")


def test_a_run_that_failed_says_how_far_it_came_and_where_that_is(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class FailsAtTwo(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 2:
                raise RuntimeError("out of memory")

    trainer = sft_trainer(model, common_arguments(tmp_path, bf16_weights=True), [FailsAtTwo()])
    callback = SparsityCallback(None, "a run").attach(trainer)
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer.train()
    lines = told(capsys)
    assert f"sparsity-monitor: run {callback.run_id} ended after 2 observations, the last at step 2" in lines
    assert lines[-1].endswith(f"push {callback.directory} --target HOST:PORT")


def test_what_is_not_delivered_is_said_with_its_reason(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    callback = train(model, tmp_path, NOWHERE)
    assert not [line for line in told(capsys) if "delivered" in line]
    assert f"cannot reach the service at {NOWHERE}" in caplog.messages[-1]
    assert f"sparsity-monitor push {callback.directory} --target {NOWHERE}" in caplog.messages[-1]


def test_who_is_refused_is_not_sent_to_push_as_if_it_helped(
    model: Path, client: Client, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target = client.listening.grpc_address
    callback = train(model, tmp_path, target, labels={"a": 1, "b": 2})
    last = caplog.messages[-1]
    assert f"the service at {target} answers INVALID_ARGUMENT: 2 labels given; this service allows 1" in last
    assert "--max-labels" in last
    assert "Once that is changed, they can be delivered; until then this is refused, too: sparsity-monitor push" in last
    assert str(callback.directory) in last


def test_a_quiet_run_prints_nothing_and_logs_the_same(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="monitor.training.told")
    train(model, tmp_path, None, quiet=True)
    assert told(capsys) == []
    logged = [message for message in caplog.messages if message.startswith("sparsity-monitor: run ")]
    assert len(logged) == 2


class Stream(io.StringIO):
    """A terminal of another encoding, or one that is gone."""

    def __init__(self, encoding: str | None, error: Exception | None = None) -> None:
        super().__init__()
        self._encoding = encoding
        self._error = error

    @property
    def encoding(self) -> str | None:  # type: ignore[override]
        return self._encoding

    def write(self, text: str) -> int:
        if self._error is not None:
            raise self._error
        text.encode(self._encoding or "utf-8")
        return super().write(text)


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [("utf-8", "run 'é …'"), ("ascii", "run '\\xe9 \\u2026'"), ("latin-1", "run 'é \\u2026'"), (None, "run 'é …'")],
)
def test_what_an_encoding_lacks_is_escaped(encoding: str | None, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Stream(encoding))
    tell(["run 'é …'"], quiet=False)
    assert sys.stderr.getvalue() == f"sparsity-monitor: {shown}\n"  # type: ignore[attr-defined]


@pytest.mark.parametrize("error", [BrokenPipeError(), ValueError("I/O operation on closed file"), RuntimeError("odd")])
def test_a_terminal_that_is_gone_disturbs_nobody(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Stream("utf-8", error))
    tell(["run"], quiet=False)


def test_a_process_without_standard_error_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    tell(["run"], quiet=False)
    assert capsys.readouterr().out == ""


def test_what_acts_on_a_terminal_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    tell(["run \x1b[2J\nb"], quiet=False)
    assert capsys.readouterr().err == "sparsity-monitor: run \\x1b[2J\\nb\n"


def test_a_progress_bar_stays_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Stream("utf-8"))
    with tqdm(total=4, file=sys.stderr, ncols=40, mininterval=0) as bar:
        bar.update()
        tell(["run"], quiet=False)
        bar.update()
    on_screen = terminal.getvalue().replace("\r", os.linesep)
    # On a line of its own, not behind the bar.
    assert "sparsity-monitor: run" in on_screen.splitlines()
