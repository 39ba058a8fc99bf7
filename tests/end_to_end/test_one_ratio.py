"""Whoever tells a ratio of a run tells the same: that of the weights that train, as numpy counts them on disk."""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from monitor import DenseThresholds, SparsityCallback
from monitor.grafana.alerts.settings import AlertSettings
from monitor.grafana.promql.ratios import (
    CUMULATIVE_SPARSITY,
    STEP_SPARSITY,
    WHOLE_MODEL_CUMULATIVE_SPARSITY,
    Level,
    Recorded,
)
from monitor.grafana.rules.prometheus_rules import prometheus_rules
from monitor.verdict import percent
from tests.counting import bfloat16_bits
from tests.end_to_end.panel_queries import boards, filled_in
from tests.eventually import eventually
from tests.grafana.binaries import binary, check
from tests.matrix.models import collate, dense, images_and_text, vision_language
from tests.matrix.test_requires_grad import Switch, without_first_layer
from tests.service.running import Client, service_in_thread
from tests.tiny import common_arguments, token_data


def _adapted() -> nn.Module:
    return get_peft_model(dense(), LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"))


def _only(trains: Callable[[str], bool]) -> nn.Module:
    model = dense()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trains(name))
    return model


@dataclass(frozen=True)
class Kind:
    """A kind of training.

    Attributes:
        trained: whether a parameter of the model that is saved trains, or did at some time.
    """

    make: Callable[[], nn.Module]
    trained: Callable[[str], bool]
    others: tuple[TrainerCallback, ...] = ()
    images: bool = False


KINDS = {
    "full": Kind(dense, lambda _: True),
    "lora": Kind(_adapted, lambda name: name.endswith("q_proj.weight")),
    "frozen tower": Kind(vision_language, lambda name: "visual" not in name, images=True),
    "one layer": Kind(lambda: _only(lambda name: "layers.1." in name), lambda name: "layers.1." in name),
    "thawed": Kind(without_first_layer, lambda _: True, (Switch("on_step_begin", 1, trains=True),)),
    "frozen later": Kind(dense, lambda _: True, (Switch("on_step_begin", 1, trains=False),)),
}
# At the first, every weight that trains changes; at the second, few do.
RATES = {"dense": 1e-1, "sparse": 1e-5}


@dataclass(frozen=True)
class Told:
    """What a finished run left behind, and the independent count."""

    callback: SparsityCallback
    log: dict[str, float]
    verdict: str
    run_id: str
    trained: int
    weights: int
    changed: int

    @property
    def cumulative(self) -> float:
        return 1 - self.changed / self.trained

    @property
    def whole(self) -> float:
        return 1 - self.changed / self.weights


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with service_in_thread(tmp_path_factory.mktemp("service") / "store.db") as client:
        yield client


def _save(model: nn.Module, path: Path) -> Path:
    """What is served of the model, under the names that it has in memory."""
    if hasattr(model, "merge_and_unload"):
        model = copy.deepcopy(model).merge_and_unload()
    path.mkdir()
    weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    save_file(weights, path / "model.safetensors")
    return path


def _train(kind: Kind, rate: float, client: Client, directory: Path, caplog: pytest.LogCaptureFixture) -> Told:
    caplog.set_level(logging.INFO, logger="monitor")
    thresholds = DenseThresholds(warmup_steps=0, observations=2)
    callback = SparsityCallback(client.listening.grpc_address, "r", dense_thresholds=thresholds, strict=True)
    changes = {"max_steps": 3, "gradient_accumulation_steps": 1, "learning_rate": rate, "lr_scheduler_type": "constant"}
    model = kind.make()
    before = bfloat16_bits(_save(model, directory / "initial"))
    trainer = Trainer(
        model,
        TrainingArguments(**common_arguments(directory / "out", remove_unused_columns=False, **changes)),
        train_dataset=images_and_text() if kind.images else token_data(),
        data_collator=collate if kind.images else None,
        callbacks=list(kind.others),
    )
    callback.attach(trainer)
    trainer.train()
    after = bfloat16_bits(_save(model, directory / "final"))
    assert callback.run_id is not None
    eventually(lambda: client.is_over(callback.run_id or ""))
    (log,) = [entry for entry in trainer.state.log_history if entry["step"] == 3 and "loss" in entry]
    assert callback.last_verdict is not None
    return Told(
        callback,
        log,
        callback.last_verdict.reason,
        callback.run_id,
        trained=sum(bits.size for name, bits in before.items() if kind.trained(name)),
        weights=sum(bits.size for bits in before.values()),
        changed=sum(int((bits != after[name]).sum()) for name, bits in before.items()),
    )


def _scraped(client: Client, run_id: str) -> list[dict[str, str]]:
    """The series of a run, as Prometheus has them after a scrape."""
    series = []
    for line in client.http.get("/metrics").text.splitlines():
        match = re.fullmatch(r"(sparsity_monitor_\w+)\{(.*)\} (\S+)", line)
        if match and f'run="{run_id}"' in match[2]:
            name, labels, value = match.groups()
            series.append({"series": f'{name}{{job="j", instance="i", {labels}}}', "values": f"{float(value)!r}x5"})
    return series


def _expressions(run_id: str) -> dict[str, list[str]]:
    """What rules record and dashboards ask, by which ratio it is."""
    asked: dict[str, list[str]] = {"cumulative": [], "step": [], "whole": []}
    for panel in (panel for board in boards().values() for panel in board["panels"]):
        kind = re.match(r"(Cumulative|Step|Whole)[\w-]*( cumulative)? sparsity( of all runs)?$", panel["title"])
        if kind:
            asked[kind[1].lower()].append(panel["targets"][0]["expr"])
    written = {ratio: [filled_in(expr, {"run": run_id}) for expr in exprs] for ratio, exprs in asked.items()}
    reading = Recorded()
    written["cumulative"].append(reading.now(CUMULATIVE_SPARSITY, Level.RUN))
    written["step"].append(reading.now(STEP_SPARSITY, Level.RUN))
    written["whole"].append(reading.now(WHOLE_MODEL_CUMULATIVE_SPARSITY, Level.RUN))
    assert {ratio: len(exprs) for ratio, exprs in written.items()} == {"cumulative": 5, "step": 5, "whole": 2}
    return written


def _prometheus_says(series: list[dict[str, str]], ratios: dict[str, float], run_id: str, directory: Path) -> None:
    (directory / "rules.yml").write_text(yaml.safe_dump(prometheus_rules(AlertSettings())))
    expectations = [
        {
            # promtool compares numbers exactly; labels are not what this is about.
            "expr": f"round(sum({expr}), 0.000001)",
            "eval_time": "3m",
            "exp_samples": [{"labels": "{}", "value": round(ratios[ratio], 6)}],
        }
        for ratio, exprs in _expressions(run_id).items()
        for expr in exprs
    ]
    test = {"interval": "1m", "input_series": series, "promql_expr_test": expectations}
    (directory / "tests.yml").write_text(yaml.safe_dump({"rule_files": ["rules.yml"], "tests": [test]}))
    check(binary("promtool"), "test", "rules", directory / "tests.yml")


@pytest.mark.parametrize("rate", RATES.values(), ids=RATES)
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_all_tell_the_share_of_the_trained_weights(
    kind: Kind, rate: float, client: Client, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told = _train(kind, rate, client, tmp_path, caplog)
    observation = told.callback.last_observation
    assert observation is not None
    step = observation.step_sparsity
    assert step is not None
    assert (observation.trained_weights, observation.weights) == (told.trained, told.weights)
    assert observation.changed.sum() == told.changed > 0
    assert observation.cumulative_sparsity == told.cumulative >= 0
    assert observation.whole_model_cumulative_sparsity == told.whole
    # The verdict, in words.
    assert told.verdict.startswith(f"{percent(told.cumulative)} of {told.trained:,} trained weights equal the base")
    if told.trained < told.weights:
        assert f"{told.trained:,} of {told.weights:,} weights train" in told.verdict
        assert f"{percent(told.whole)} of all equal the base (whole-model cumulative sparsity)" in told.verdict
    assert ("the matrices that adapters change" in told.verdict) == (kind is KINDS["lora"])
    # Trackers.
    names = ("cumulative_sparsity", "whole_model_cumulative_sparsity", "step_sparsity")
    assert [told.log[f"sparsity/{name}"] for name in names] == [told.cumulative, told.whole, step]
    # API, for the run and for its last observation.
    answer = client.http.get(f"/api/runs/{told.run_id}").json()
    last = client.http.get(f"/api/runs/{told.run_id}/history").json()["observations"][-1]
    for said in (answer, last):
        assert [said[name] for name in names] == [told.cumulative, told.whole, step]
        assert said["trained_weights"] == told.trained
    groups = [(group["weights"], group["frozen_weights"], group["trained_weights"]) for group in answer["groups"]]
    assert groups == [(group.weights, group.frozen_weights, group.trained_weights) for group in observation.groups]
    assert all((group["cumulative_sparsity"] is None) == (group["trained_weights"] == 0) for group in answer["groups"])
    # Page.
    page = client.http.get(f"/runs/{told.run_id}").text
    shown = [re.sub(r"<.*?>", "", text) for text in re.findall(r"<dt>.*?</dd>", page)]
    assert f"cumulative sparsity (bits, bfloat16){100 * told.cumulative:.2f} %" in shown
    assert f"whole-model cumulative sparsity{100 * told.whole:.2f} %" in shown
    assert f"trained weights{told.trained:,}".replace(",", " ") in shown
    # Prometheus: recording rules and what the dashboards ask.
    ratios = {"cumulative": told.cumulative, "step": step, "whole": told.whole}
    _prometheus_says(_scraped(client, told.run_id), ratios, told.run_id, tmp_path)
