"""A user of the callback hears before the first step what a service would refuse for good, and never afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from monitor import SparsityCallback
from monitor.errors import ConfigurationError
from tests.service.running import Client, service_in_thread
from tests.tiny import common_arguments, save_model, sft_trainer


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with service_in_thread(tmp_path_factory.mktemp("service") / "store.db") as client:
        yield client


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labels": dict.fromkeys(map(str, range(33)), "x")}, "33 labels are given, .* at most 32"),
        ({"labels": {"k" * 513: "x"}}, "the key of a label 'kkk.* has 513 characters, .* at most 512"),
        ({"labels": {7: "x"}}, "the key of a label is 7; expected text"),
        ({"run_id": "r" * 513}, "run_id 'rrr.* has 513 characters, .* at most 512"),
        ({"run_id": "a\nb"}, "run_id is 'a\\\\nb'; expected printable characters"),
        ({"references": {"n" * 513: "mask"}}, "the name of a reference mask 'nnn.* has 513 characters"),
        ({"references": dict.fromkeys(map(str, range(17)), "mask")}, "17 reference masks are given, .* at most 16"),
        ({"tolerances": [1 / n for n in range(1, 18)]}, "17 tolerances are given, .* at most 16"),
    ],
)
def test_what_is_known_to_be_refused_is_refused_at_construction(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        SparsityCallback(None, **settings)


def test_what_the_model_brings_along_is_refused_before_the_first_step(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARSITY_MONITOR_MAX_GROUPS", "3")
    trainer = sft_trainer(model, common_arguments(tmp_path), [SparsityCallback(None)])
    with pytest.raises(ConfigurationError, match=r"modules \(groups\) are measured.*`include` or `exclude`"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_a_run_of_long_and_odd_texts_is_shown_by_the_service(model: Path, client: Client, tmp_path: Path) -> None:
    labels = {"prompt": "long " * 300, "bytes": "a\x00b \udce9", "lines": "one\ntwo"}
    name = "a name " * 200
    callback = SparsityCallback(client.listening.grpc_address, name, labels=labels)
    sft_trainer(model, common_arguments(tmp_path, max_steps=1), [callback]).train()
    assert callback.run_id is not None
    shown = client.run(callback.run_id)
    assert shown.observations == 1
    assert shown.registration.name == name[:511] + "…"
    assert shown.registration.labels["prompt"] == ("long " * 300)[:511] + "…"
    assert shown.registration.labels["bytes"] == "a\\x00b \\udce9"
    assert shown.registration.labels["lines"] == "one\ntwo"
