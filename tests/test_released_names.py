"""What others build on: the names in `released`. They may get company, but none disappears or changes its place.

Whoever adds a name that users see adds a line there: of a class with its members, of a function with its arguments (and
their places, where these may be given by position).
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest
import torch
import typer
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from torch import nn

import monitor
from monitor import cli
from monitor.grafana.alerts.catalogue import all_alerts
from monitor.grafana.alerts.settings import AlertSettings
from monitor.service.access.gate import Gate
from monitor.service.access.tokens import Token
from monitor.service.metrics.exposition import Exposition
from monitor.service.metrics.instruments import Instruments
from monitor.service.metrics.runs import LiveMetrics
from monitor.service.quantities.families import FAMILIES
from monitor.service.recording.recorder import Recorder
from monitor.service.web.app import build_app
from monitor.wire import monitor_pb2
from tests.service.running import settings_for

RELEASED = Path(__file__).parent / "released"


async def _no_tokens() -> list[Token]:
    return []


def check(now: Iterable[str], file: str) -> None:
    """Check that every line of a file in `released` is among those that there are now."""
    there = set(now)
    gone = [line for line in (RELEASED / file).read_text().splitlines() if line not in there]
    assert not gone, (
        f"released, and gone or changed: {gone}. Somebody's script, dashboard or alert uses it: bring it back, or keep "
        f"it beside its successor. Only what was never released may leave tests/released/{file}"
    )


def arguments_of(function: Callable[..., object]) -> list[str]:
    """The arguments of a function; those that may be given by position with their place."""
    parameters = [each for each in inspect.signature(function).parameters.values() if each.name != "self"]
    return [
        f"{place}:{each.name}" if each.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD else each.name
        for place, each in enumerate(parameters)
    ]


def members_of(name: str, kind: type, instance: object) -> Iterable[str]:
    yield from (f"{name}({argument})" for argument in arguments_of(kind))
    for member in dir(instance):
        if not member.startswith("_"):
            yield f"{name}.{member}"
            if isinstance(inspect.getattr_static(kind, member, None), FunctionType | classmethod | staticmethod):
                yield from (f"{name}.{member}({argument})" for argument in arguments_of(getattr(kind, member)))


def public_names(directory: Path) -> Iterable[str]:
    yield from monitor.__all__
    mask = monitor.UpdateMask.from_bools({"weight": torch.ones(1, 2, dtype=torch.bool)})
    mask.save(directory / "mask")
    instances = {
        "MaskFile": monitor.MaskFile(directory / "mask"),
        "SparsityCallback": monitor.SparsityCallback(None),
        "Subnetwork": monitor.Subnetwork(
            model := nn.Linear(2, 1, bias=False), mask, torch.optim.SGD(model.parameters())
        ),
        "SubnetworkCallback": monitor.SubnetworkCallback(mask),
        "UpdateMask": mask,
        "UpdateObserver": monitor.UpdateObserver(nn.Linear(2, 2)),
    }
    for name in monitor.__all__:
        if isinstance(kind := getattr(monitor, name), type):
            yield from members_of(name, kind, instances.get(name, kind))
        elif callable(kind):
            yield from (f"{name}({argument})" for argument in arguments_of(kind))


def test_no_public_name_disappears(tmp_path: Path) -> None:
    check(public_names(tmp_path), "public_names.txt")


def metrics() -> Iterable[str]:
    return (" ".join([each.kind, each.name, *each.labels]) for each in FAMILIES)


def test_no_metric_disappears_and_none_changes_its_labels() -> None:
    check(metrics(), "metrics.txt")


@pytest.mark.parametrize(
    "change", [("run_step run", "run_steps run"), ("run_state run", "run_state run_id"), ("info", "gauge")]
)
def test_a_renamed_metric_is_noticed(change: tuple[str, str]) -> None:
    with pytest.raises(AssertionError, match="released, and gone or changed: "):
        check((line.replace(*change) for line in metrics()), "metrics.txt")


def web(store: Path) -> Iterable[str]:
    recorder = Recorder(settings_for(store), Instruments())
    settings = settings_for(store)
    exposition = Exposition(Instruments().registry, LiveMetrics(recorder.live, settings, "http://localhost"))
    app = build_app(settings, recorder, exposition, lambda: True, Gate(_no_tokens, None))
    asyncio.run(recorder.close())
    yield from (str(getattr(route, "path", "")) for route in app.routes)
    for name, schema in app.openapi()["components"]["schemas"].items():
        yield from (f"{name}.{field}" for field in schema.get("properties", ()))


def test_no_route_and_no_field_of_an_answer_disappears(tmp_path: Path) -> None:
    check(web(tmp_path / "store.db"), "web.txt")


def fields_of(message: Descriptor) -> Iterable[str]:
    for field in message.fields:
        repeated = "repeated " if field.is_repeated else ""
        nested = field.message_type or field.enum_type
        kind = nested.full_name.removeprefix("sparsity_monitor.v1.") if nested else _KINDS[field.type]
        yield f"{message.full_name}.{field.name} = {field.number}: {repeated}{kind}"
    for enum in message.enum_types:
        yield from (f"{enum.full_name}.{value.name} = {value.number}" for value in enum.values)
    for nested_message in message.nested_types:
        yield from fields_of(nested_message)


_KINDS = {
    value: name.removeprefix("TYPE_").lower()
    for name, value in vars(FieldDescriptor).items()
    if name.startswith("TYPE_")
}


def wire() -> Iterable[str]:
    for message in monitor_pb2.DESCRIPTOR.message_types_by_name.values():
        yield from fields_of(message)
    for service in monitor_pb2.DESCRIPTOR.services_by_name.values():
        for method in service.methods:
            given = "stream " * method.client_streaming + method.input_type.name
            answered = "stream " * method.server_streaming + method.output_type.name
            yield f"{service.full_name}.{method.name}: {given} → {answered}"


def test_the_wire_stays_readable_for_what_runs_somewhere_already() -> None:
    check(wire(), "wire.txt")


def commands(monkeypatch: pytest.MonkeyPatch) -> Iterable[str]:
    apps: list[typer.Typer] = []
    with monkeypatch.context() as patched:
        patched.setattr("typer.Typer.__call__", lambda app: apps.append(app))  # noqa: PLW0108 (a function, which becomes a method)
        cli.main()
    return _commands("sparsity-monitor", typer.main.get_command(apps[0]))


def _commands(name: str, command: Any) -> Iterable[str]:
    yield name
    for parameter in command.params:
        shown = "/".join([*parameter.opts, *parameter.secondary_opts])
        yield f"{name} {shown}{f' ({parameter.envvar})' if parameter.envvar else ''}"
    for each, subcommand in getattr(command, "commands", {}).items():
        yield from _commands(f"{name} {each}", subcommand)


def test_no_command_and_no_option_disappears(monkeypatch: pytest.MonkeyPatch) -> None:
    check(commands(monkeypatch), "commands.txt")


def alerts() -> Iterable[str]:
    yield from (alert.name for alert in all_alerts(AlertSettings()))
    yield from (f"settings: {name}" for name in AlertSettings.model_fields)


def test_no_alert_and_none_of_their_settings_disappears() -> None:
    check(alerts(), "alerts.txt")
