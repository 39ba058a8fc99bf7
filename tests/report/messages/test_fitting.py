"""Whatever a service refuses for good is shortened, or refused before anything is trained, with the limit named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from monitor.errors import ConfigurationError
from monitor.limits import Limits
from monitor.observe.masks.mask import UpdateMask
from monitor.observe.observer import UpdateObserver
from monitor.report.messages.registration import registration_message
from monitor.report.reporter import Reporter
from monitor.service.recording.registration import check_registration
from monitor.service.settings import ServiceSettings
from monitor.wire import monitor_pb2 as pb
from tests.report.attempts import ObservedModel
from tests.service.running import Client

LIMITS = Limits()
LONG = "é" * 5000


def message(observer: UpdateObserver, **fields: Any) -> pb.Registration:
    return registration_message(observer, **{"run_id": "run", "name": "a run", **fields})


def test_what_is_for_people_is_shortened_until_a_service_takes_it(
    observed: ObservedModel, client: Client, directory: Path
) -> None:
    labels = {f"label {number}": f"{number} {LONG}" for number in range(LIMITS.max_labels)}
    registration = message(observed.observer, name=LONG, model=LONG, base_source=LONG, labels=labels, run_id="r" * 512)
    reporter = Reporter(registration, directory, client.listening.grpc_address)
    reporter.report(observed.train_and_observe())
    reporter.finish(1, failure=f"ValueError: {LONG * 3_000}")
    assert reporter.close()
    run = client.run("r" * 512)
    shown = run.registration
    for text in (shown.name, shown.model, shown.base.source, shown.labels["label 7"]):
        assert len(text) == LIMITS.max_label_length
        assert text.endswith("é…")
    assert (run.reason[:14], run.reason[-1], run.observations) == ("ValueError: éé", "…", 1)


@pytest.mark.parametrize("text", ["not UTF-8: \udce9", "nothing\x00 more", "\x1b[2J", "\ud83d alone"])
def test_text_that_cannot_be_sent_is_sent_as_escapes(
    text: str, observed: ObservedModel, client: Client, directory: Path
) -> None:
    registration = message(observed.observer, name=text, model=text, base_source=text, labels={"dir": text})
    registration.run_id = f"escaped {text.encode('unicode_escape').hex()}"
    reporter = Reporter(registration, directory, client.listening.grpc_address)
    reporter.finish(0, failure=text)
    assert reporter.close()
    shown = client.run(registration.run_id)
    expected = "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
    assert shown.registration.name == shown.registration.labels["dir"] == shown.reason == expected


def with_groups(count: int) -> UpdateObserver:
    model = nn.ParameterDict({f"p{number}": nn.Parameter(torch.ones(1)) for number in range(count)})
    return UpdateObserver(model)


def with_module(name: str) -> UpdateObserver:
    return UpdateObserver(nn.ModuleDict({name: nn.Linear(1, 1), "other": nn.Linear(1, 1)}))


def with_references(names: list[str]) -> UpdateObserver:
    model = nn.Linear(2, 1)
    mask = UpdateMask.from_bools({n: torch.ones_like(p, dtype=torch.bool) for n, p in model.named_parameters()})
    return UpdateObserver(model, references=dict.fromkeys(names, mask))


@pytest.mark.parametrize(
    ("limit", "make"),
    [
        ("max_labels", lambda: message(with_groups(1), labels=dict.fromkeys(map(str, range(33)), "x"))),
        ("max_label_length", lambda: message(with_groups(1), labels={"k" * 513: "x"})),
        ("max_label_length", lambda: message(with_groups(1), run_id="r" * 513)),
        ("max_label_length", lambda: message(with_module("m" * 513))),
        ("max_label_length", lambda: message(with_references(["n" * 513]))),
        ("max_references", lambda: message(with_references([str(number) for number in range(17)]))),
        ("max_tolerances", lambda: message(UpdateObserver(nn.Linear(1, 1), tolerances=[1 / n for n in range(1, 18)]))),
    ],
)
def test_what_tells_runs_and_parts_apart_is_refused_before_training(
    limit: str, make: Callable[[], pb.Registration], tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=f"a service takes at most {getattr(LIMITS, limit)}") as refused:
        Reporter(make(), tmp_path / "spool")
    assert f"--{limit.replace('_', '-')}" in str(refused.value)
    assert f"SPARSITY_MONITOR_{limit.upper()}" in str(refused.value)
    assert not (tmp_path / "spool").exists()


def test_a_module_whose_name_is_too_long_can_be_left_out(tmp_path: Path) -> None:
    model = nn.ModuleDict({"m" * 513: nn.Linear(1, 1), "other": nn.Linear(1, 1)})
    with pytest.raises(ConfigurationError, match="Rename it, or leave it out with `exclude`"):
        Reporter(message(UpdateObserver(model)), tmp_path)
    Reporter(message(UpdateObserver(model, exclude=["^mmm"])), tmp_path).close(timeout=0)


def test_too_many_groups_are_refused_with_the_way_to_measure_fewer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SPARSITY_MONITOR_MAX_GROUPS", "5")
    model = nn.ParameterDict({f"p{number}": nn.Parameter(torch.ones(1)) for number in range(6)})
    with pytest.raises(ConfigurationError, match=r"6 modules \(groups\) are measured.*at most 5.*`include`"):
        Reporter(message(UpdateObserver(model)), tmp_path)
    # What it says helps.
    Reporter(message(UpdateObserver(model, include=["p[0-4]"])), tmp_path).close(timeout=0)
    Reporter(message(UpdateObserver(model, exclude=["p0"])), tmp_path).close(timeout=0)
    monkeypatch.setenv("SPARSITY_MONITOR_MAX_GROUPS", "6")
    Reporter(message(UpdateObserver(model)), tmp_path).close(timeout=0)


def test_a_description_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SPARSITY_MONITOR_MAX_REQUEST_BYTES", "4096")
    with pytest.raises(ConfigurationError, match=r"the description of the run takes .* bytes.*4,096"):
        Reporter(message(with_groups(500)), tmp_path)


@pytest.mark.parametrize("run_id", ["", " ", "a/b", "..", "a\nb", "a\ud800", 7, None])
def test_an_identity_that_no_run_can_have_is_refused(run_id: object, observed: ObservedModel, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="run_id is "):
        registration_message(observed.observer, run_id=run_id, name="run")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "message_"),
    [
        ({"labels": {7: "x"}}, "the key of a label is 7; expected text"),
        ({"labels": {"\udce9": "x"}}, r"the key of a label is '\\udce9', which is no valid Unicode"),
        ({"labels": ["a"]}, r"labels is \['a'\]; expected {name: value}"),
        ({"attempt": -1}, "attempt is -1; expected a whole number from 1"),
        ({"attempt": "2"}, "attempt is '2'; expected a whole number"),
        ({"resumed_from_step": -1}, "resumed_from_step is -1"),
        ({"resumed_from_step": 1.5}, "resumed_from_step is 1.5"),
    ],
)
def test_what_is_of_another_kind_is_a_sentence(fields: dict[str, Any], message_: str, observed: ObservedModel) -> None:
    with pytest.raises(ConfigurationError, match=message_):
        message(observed.observer, **fields)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "dir"), "registration is 'run'; expected what registration_message"),
        ((None, "dir"), "registration is None"),
        ((pb.Registration(), 5), "directory is 5; expected where the spool"),
        ((pb.Registration(), "dir", 50051), "target is 50051"),
    ],
)
def test_a_reporter_of_something_else_is_a_sentence(
    arguments: tuple[Any, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=said):
        Reporter(*arguments)
    assert not list(tmp_path.iterdir())


class Wrapped(nn.Module):
    """One module under each of the names that are left out of the names of groups."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("model", "transformer", "backbone", "gpt_neox", "decoder", "language_model", "encoder"):
            setattr(self, name, nn.Linear(1, 1))
        self.weight = nn.Parameter(torch.ones(1))


@pytest.mark.parametrize(
    "model",
    [
        Wrapped(),
        nn.Linear(1, 1),
        nn.Sequential(nn.Linear(1, 1), nn.Sequential(nn.Linear(1, 1))),
        nn.ParameterDict({"model": nn.Parameter(torch.ones(1))}),
        nn.ModuleDict({"model": nn.ModuleDict({"model": nn.Linear(1, 1), "decoder": nn.Linear(1, 1)})}),
        nn.ModuleDict({"décodeur": nn.Linear(1, 1), "a b": nn.Linear(1, 1)}),
    ],
)
def test_every_module_has_a_name_that_services_take(model: nn.Module) -> None:
    check_registration(message(UpdateObserver(model)), ServiceSettings())
