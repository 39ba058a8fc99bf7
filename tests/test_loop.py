from __future__ import annotations

import logging
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import monitor
from monitor import DenseThresholds, UpdateMask, UpdateObserver, Watch
from monitor.errors import BaseMismatchError, ConfigurationError
from monitor.loop import watch
from monitor.report.spool.items import Spool
from monitor.training.resume import RunIdentity, Saved
from monitor.wire import monitor_pb2 as pb
from tests.observe.cuda_model import CudaModel
from tests.observe.mutation import mutate
from tests.spooled import recorded_in

AT_ONCE = DenseThresholds(warmup_steps=0)


def make_model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3, bias=False))


def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-3)


def learn(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> float:
    optimizer.zero_grad()
    generator = torch.Generator().manual_seed(step)
    loss = model(torch.randn(4, 8, generator=generator)).square().mean()
    loss.backward()
    optimizer.step()
    return loss.item()


def observe(directory: Path, steps: int, model: nn.Module | None = None, **settings: Any) -> Watch:
    """Train and observe, as a user does."""
    model = model or make_model()
    optimizer = make_optimizer(model)
    with monitor.watch(model, None, output_dir=directory, **settings) as watch:
        for step in range(1, steps + 1):
            if watch.step(step, logs={"loss": learn(model, optimizer, step)}):
                break
    return watch


def test_watching_changes_no_loss(tmp_path: Path) -> None:
    def losses(observing: bool) -> list[float]:
        model = make_model()
        optimizer = make_optimizer(model)
        if not observing:
            return [learn(model, optimizer, step) for step in range(1, 6)]
        with monitor.watch(model, None, output_dir=tmp_path) as watch:
            found = []
            for step in range(1, 6):
                found.append(learn(model, optimizer, step))
                watch.step(step)
            return found

    assert losses(observing=True) == losses(observing=False)


def test_a_loop_is_counted_and_reported_as_an_observer_counts_it(tmp_path: Path) -> None:
    observed = observe(tmp_path, 4, every=2, run_name="mine", labels={"algorithm": "PPO"}, planned_steps=3)
    model = make_model()
    optimizer, observer = make_optimizer(model), UpdateObserver(model)
    expected = []
    for step in range(1, 5):
        learn(model, optimizer, step)
        # Every second step, and the last that was planned.
        expected += [observer.observe(step)] if step > 1 else []
    observations = recorded_in(tmp_path, "observation")
    assert [(o.step, list(o.changed)) for o in observations] == [(o.step, list(o.changed)) for o in expected]
    assert [log.step for log in recorded_in(tmp_path, "training_log")] == [1, 2, 3, 4]
    assert UpdateMask.load(tmp_path / "sparsity_monitor" / "update_mask.safetensors").count() == (
        observer.update_mask().count()
    )
    assert observed.run_id is not None
    assert observed.run_id.startswith("mine-")


def raise_in_loop(directory: Path, error: BaseException) -> None:
    model = make_model()
    with monitor.watch(model, None, output_dir=directory) as watch:
        learn(model, make_optimizer(model), 1)
        watch.step(1)
        raise error


@pytest.mark.parametrize("error", [ValueError("no data"), KeyboardInterrupt(), SystemExit("no disk")])
def test_a_block_that_is_left_by_an_exception_has_failed_with_it(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        raise_in_loop(tmp_path, error)
    (finish,) = recorded_in(tmp_path, "finish")
    assert finish.ending == pb.Finish.ENDING_FAILED
    assert finish.reason == f"{type(error).__name__}: {error}".rstrip(": ")
    # What was observed until then is there.
    assert [each.step for each in recorded_in(tmp_path, "observation")] == [1]


@pytest.mark.parametrize("asked", ["stop", lambda *, step, observation, verdict: step == observation.step])
def test_a_loop_is_told_to_end_where_updates_are_dense(tmp_path: Path, asked: Any) -> None:
    watch = observe(tmp_path, 9, on_dense=asked, dense_thresholds=AT_ONCE)
    assert watch.last_observation is not None
    assert watch.last_observation.step == 1
    (finish,) = recorded_in(tmp_path, "finish")
    assert (finish.ending, finish.stopped_by) == (pb.Finish.ENDING_STOPPED, "on_dense")


def test_a_loop_that_ends_is_finished(tmp_path: Path) -> None:
    # Dense, and nobody asked for an end.
    assert observe(tmp_path, 9, dense_thresholds=AT_ONCE).last_observation is not None
    (finish,) = recorded_in(tmp_path, "finish")
    assert (finish.ending, finish.step) == (pb.Finish.ENDING_COMPLETED, 9)


def test_steps_without_a_number_are_counted_on_from_the_checkpoint(tmp_path: Path) -> None:
    """As by a framework's hook, which is not told the number."""
    model, base = make_model(), make_model().state_dict()
    optimizer = make_optimizer(model)
    settings: dict[str, Any] = {"output_dir": tmp_path, "base": base, "strict": True}
    for resume_from in (None, tmp_path / "checkpoint"):
        with monitor.watch(model, None, resume_from=resume_from, **settings) as watch:
            for seed in (1, 2):
                learn(model, optimizer, seed)
                watch.step()
            watch.save(tmp_path / "checkpoint")
    assert [each.step for each in recorded_in(tmp_path, "observation")] == [1, 2, 3, 4]


def train_in_two(directory: Path, **settings: Any) -> tuple[Watch, Watch]:
    """Train two steps, save, and go on from there for two more, in another process as far as the monitor knows."""
    model, base = make_model(), make_model().state_dict()
    optimizer = make_optimizer(model)
    with monitor.watch(model, None, output_dir=directory / "run", every=9) as first:
        for step in (1, 2):
            learn(model, optimizer, step)
            first.step(step)
        first.save(directory / "run" / "a checkpoint")
        learn(model, optimizer, 9)
        first.step(3)
    model.load_state_dict(make_model().state_dict())
    resumed = make_optimizer(model)
    for step in (1, 2):
        learn(model, resumed, step)
    arguments: dict[str, Any] = {"output_dir": directory / "run", "base": base} | settings
    with monitor.watch(model, None, resume_from=directory / "run" / "a checkpoint", **arguments) as second:
        for step in (3, 4):
            learn(model, resumed, step)
            second.step(step)
    return first, second


def test_a_loop_that_is_resumed_goes_on_as_the_run_that_was_not_interrupted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = train_in_two(tmp_path)
    uninterrupted = observe(tmp_path / "other", 4).last_observation
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert second.run_id == first.run_id
    observed = second.last_observation
    assert observed is not None
    assert uninterrupted is not None
    for counts in ("changed", "newly_changed", "reverted", "step_changed"):
        assert getattr(observed, counts).tolist() == getattr(uninterrupted, counts).tolist(), counts
    # Observed at the steps 2, 3 and 4, and not at 1: what changed and came back by 2 is not known.
    assert (observed.touched <= uninterrupted.touched).all()
    assert observed.touched.sum() > observed.changed.sum()


def test_a_resume_elsewhere_under_another_name_is_a_branch(tmp_path: Path) -> None:
    first, second = train_in_two(tmp_path, output_dir=tmp_path / "other", run_name="other")
    assert second.run_id != first.run_id
    with closing(Spool(tmp_path / "other" / "sparsity_monitor")) as spool:
        (attempt,) = spool.attempts()
    registration = pb.Registration.FromString(attempt.registration)
    assert (registration.parent.run_id, registration.parent.step) == (first.run_id, 2)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"resume_from": "nowhere"}, ConfigurationError, r"resume_from is 'nowhere'.*watch\.save\(directory\)"),
        ({"resume_from": 3}, BaseMismatchError, "cannot read the base again.*as `base`"),
        ({"planned_steps": -1}, ConfigurationError, "planned_steps is -1"),
        ({"onece": 3}, TypeError, r"watch\(\) got an unexpected keyword argument 'onece'"),
    ],
)
def test_what_cannot_work_is_refused_when_the_training_begins(
    tmp_path: Path, settings: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        monitor.watch(make_model(), None, output_dir=tmp_path, **settings)


def test_what_a_trainer_saved_is_read_as_what_a_loop_saves() -> None:
    identity = RunIdentity("run", 2, "0" * 32, labels={"seed": "1"})
    assert Saved.parse(Saved(7, identity).text()) == Saved(7, identity)
    assert Saved.parse('{"global_step": 7, "epoch": 1.0, "stateful_callbacks": {"other": {}}}') == Saved(7, None)
    for text in ("[]", "{}", '{"global_step": "x"}', '{"global_step": 1, "stateful_callbacks": []}', "{"):
        with pytest.raises(ValueError, match=r"."):
            Saved.parse(text)


def test_a_step_that_does_not_rise_is_said_once_and_disturbs_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = make_model()
    optimizer = make_optimizer(model)
    with monitor.watch(model, None, output_dir=tmp_path, strict=True) as watch:
        for step in (0, 1, 1, 2):
            learn(model, optimizer, step)
            watch.step(step)
        watch.step("3")  # type: ignore[arg-type]
    (said,) = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
    assert re.search(r"watch\.step\(0\) is not observed.*call watch\.step\(step \+ 1\)", said)
    assert [each.step for each in recorded_in(tmp_path, "observation")] == [1, 2]


def test_an_error_of_the_monitor_stays_away_from_the_training_unless_strict(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError("no GPU")

    monkeypatch.setattr(UpdateObserver, "start", broken)
    assert observe(tmp_path / "a", 3).last_observation is None
    assert "training goes on" in caplog.text
    with pytest.raises(OSError, match="no GPU"):
        observe(tmp_path / "b", 3, strict=True)


def test_what_is_thawed_before_a_step_is_measured_from_before_it(tmp_path: Path) -> None:
    model = make_model()
    model[0].requires_grad_(False)
    optimizer = make_optimizer(model)
    with monitor.watch(model, None, output_dir=tmp_path) as watch:
        learn(model, optimizer, 1)
        watch.step(1)
        before = model[0].weight.detach().to(torch.bfloat16).clone()
        model[0].requires_grad_(True)
        learn(model, optimizer, 2)
        watch.step(2)
        assert watch.last_observation is not None
        changed = (model[0].weight.detach().to(torch.bfloat16) != before).sum() + (
            model[0].bias.detach().to(torch.bfloat16) != make_model()[0].bias.detach().to(torch.bfloat16)
        ).sum()
    counts = dict(zip([g.module for g in watch.last_observation.groups], watch.last_observation.changed, strict=True))
    assert int(counts["0"] if "0" in counts else watch.last_observation.changed[0]) == int(changed) > 0


def test_weights_that_change_after_they_were_observed_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = make_model()
    optimizer = make_optimizer(model)
    with monitor.watch(model, None, output_dir=tmp_path) as watch:
        for step in (1, 2, 3):
            learn(model, optimizer, step)
            watch.step(step)
            with torch.no_grad():
                model[2].weight += 1.0
    said = [each.getMessage() for each in caplog.records if "after they were observed at step 1" in each.getMessage()]
    assert len(said) == 1
    assert "Call watch.step() after all that changes weights in a step." in said[0]


def test_an_optimizer_that_nobody_announces_is_not_taken_for_a_late_change(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = make_model()
    optimizer = torch.optim.SGD(model[0].parameters(), lr=0.1)
    with monitor.watch(model, None, output_dir=tmp_path) as watch:
        for step in (1, 2, 3):
            with torch.no_grad():
                model[2].weight += 1.0
            learn(model, optimizer, step)
            watch.step(step)
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert [list(each.changed)[1] for each in recorded_in(tmp_path, "observation")] == [48] * 3


def breaks_and_changes(directory: Path | None) -> tuple[dict[str, int], int]:
    """Make three compiled steps, and return what broke the graph how often, and how many changed weights are seen.

    Args:
        directory: None watches nothing.
    """
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.ones(1, 8)).sum().backward()
    compiled = torch.compile(optimizer.step, backend="eager")
    changed = 0
    with nullcontext() if directory is None else monitor.watch(model, None, output_dir=directory) as watch:
        for step in (1, 2, 3):
            compiled()
            if watch is not None:
                watch.step(step)
                changed = int(watch.last_observation.changed.sum())
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0
    return dict(torch._dynamo.utils.counters["graph_break"]), changed


def test_a_compiled_optimizer_step_is_compiled_as_it_is_without(tmp_path: Path) -> None:
    breaks, changed = breaks_and_changes(tmp_path)
    assert changed > 0
    assert breaks == breaks_and_changes(None)[0]


def test_it_needs_no_library_but_torch(tmp_path: Path) -> None:
    program = f"""
import sys
for name in ("transformers", "trl", "accelerate", "datasets", "tqdm"):
    sys.modules[name] = None
import torch, monitor
model = torch.nn.Linear(2, 2)
with monitor.watch(model, None, output_dir={str(tmp_path)!r}, strict=True) as watch:
    torch.nn.init.ones_(model.weight)
    watch.step(1)
    watch.save({str(tmp_path / "checkpoint")!r})
print(int(watch.last_observation.changed.sum()))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("4\n", 0), done.stderr


class Filling(torch.optim.Optimizer):
    """Changes one more weight at each step."""

    def __init__(self, weight: nn.Parameter, write: Callable[[], None]) -> None:
        super().__init__([weight], {})
        self._write = write

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        self._write()


def faults_of(directory: Path, how: Callable[[int], bool]) -> tuple[Watch, list[str]]:
    """Train on the model of CUDA; `how` says of each step whether an optimizer of torch makes it."""
    with CudaModel() as cuda:
        model = nn.Module()
        model.weight = nn.Parameter(cuda.tensor(torch.ones(50, 70, dtype=torch.bfloat16), "the weights"))
        step = 0

        def write() -> None:
            with cuda.doing("the optimizer's step"), torch.no_grad():
                model.weight.view(-1)[:step].fill_(2.0)

        optimizer = Filling(model.weight, write)
        with monitor.watch(model, None, output_dir=directory, strict=True, base_mode="device") as watch:
            for step in range(1, 7):
                with cuda.nobody_waits():
                    with cuda.doing("the forward pass"), torch.no_grad():
                        model.weight.sum()
                    (optimizer.step if how(step) else write)()
                with cuda.doing("watch.step"):
                    watch.step(step, logs={"loss": 1.0})
        return watch, cuda.faults


ANNOUNCED: Callable[[int], bool] = lambda step: True  # noqa: E731
UNANNOUNCED: Callable[[int], bool] = lambda step: False  # noqa: E731
on_cuda_model = pytest.mark.skipif(torch.cuda.is_available(), reason="the real one is there")


@on_cuda_model
@pytest.mark.parametrize("how", [ANNOUNCED, UNANNOUNCED])
def test_a_training_on_cuda_waits_for_what_is_observed_beside_it(tmp_path: Path, how: Callable[[int], bool]) -> None:
    watch, faults = faults_of(tmp_path, how)
    assert not faults, "\n".join(faults)
    assert watch.last_observation is not None
    assert watch.last_observation.changed.sum() == 6


@on_cuda_model
@pytest.mark.parametrize(("method", "how"), [("_before_update", ANNOUNCED), ("_let_the_unannounced_wait", UNANNOUNCED)])
def test_each_of_its_waits_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, how: Callable[[int], bool]
) -> None:
    mutate(monkeypatch, Watch, method, "self._run.let_updates_wait()", "pass")
    _, faults = faults_of(tmp_path, how)
    assert any(re.search("fill_ in the optimizer's step .* while the kernel in watch.step", each) for each in faults)


def test_the_function_has_the_signature_of_its_settings() -> None:
    assert list(watch.__signature__.parameters)[:3] == ["model", "target", "run_name"]  # type: ignore[attr-defined]
