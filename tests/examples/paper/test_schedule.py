from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path

import pytest
from paper import schedule
from paper.experiments import FULL, SHORT, Experiment, Scale, Subnetwork, all_experiments, short_experiments
from paper.place import Place
from paper.results import RESULT_FILE
from paper.schedule import Schedule, ScheduleError

from tests.examples.paper.made import as_json, experiment, result

# Processes of Linux that are copies of this one, which has loaded everything.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


def crash_or_leave_a_result(each: Experiment, scale: Scale, place: Place) -> None:
    (place.directory(each.name) / "seen").touch()
    if each.name == "grpo":
        os._exit(3)
    (place.directory(each.name) / RESULT_FILE).write_text(json.dumps(as_json(result(each.name, 0.5))))


def planned(names: list[str], output: Path, monkeypatch: pytest.MonkeyPatch) -> Schedule:
    monkeypatch.setattr(schedule, "_train", crash_or_leave_a_result)
    made = Schedule([experiment(name) for name in names], FULL, Place(output, None))
    monkeypatch.setattr(made, "_processes", multiprocessing.get_context("fork"))
    return made


def test_a_crash_is_told_and_what_does_not_need_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["grpo", "dpo", "grpo-subnetwork", "dpo-subnetwork", "grpo-random-1-percent"]
    ended = {each.experiment.name: each.failure for each in planned(names, tmp_path, monkeypatch).run(at_once=2)}
    assert ended.keys() == set(names)
    assert ended["grpo"] == f"ended with status 3; see {tmp_path / 'grpo' / 'log.txt'}"
    assert ended["grpo-subnetwork"] == "it needs grpo, which failed"
    assert not (tmp_path / "grpo-subnetwork").exists()
    assert [name for name in names if not ended[name]] == ["dpo", "dpo-subnetwork", "grpo-random-1-percent"]


def test_what_has_finished_is_kept_and_what_has_not_begins_afresh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, left in (("dpo", RESULT_FILE), ("sft", "half a run")):
        (tmp_path / name).mkdir()
        (tmp_path / name / left).write_text(json.dumps(as_json(result(name, 0.5))))
    made = planned(["sft", "dpo", "dpo-subnetwork"], tmp_path, monkeypatch)
    assert [each.name for each in made.kept] == ["dpo"]
    assert {each.experiment.name for each in made.run(at_once=1)} == {"sft", "dpo-subnetwork"}
    assert not (tmp_path / "dpo" / "seen").exists()
    assert not (tmp_path / "sft" / "half a run").exists()


def test_a_result_of_other_settings_is_not_taken_for_one(tmp_path: Path) -> None:
    (tmp_path / "dpo").mkdir()
    (tmp_path / "dpo" / RESULT_FILE).write_text(json.dumps(as_json(result("dpo", 0.5))))
    with pytest.raises(ScheduleError, match=f"{tmp_path / 'dpo'} has the result of other settings"):
        Schedule([experiment("dpo")], SHORT, Place(tmp_path, None))


def test_results_without_their_base_model_are_not_gone_on_from(tmp_path: Path) -> None:
    (tmp_path / "dpo").mkdir()
    (tmp_path / "dpo" / RESULT_FILE).write_text(json.dumps(as_json(result("dpo", 0.5))))
    with pytest.raises(ScheduleError, match="is not the model that dpo was trained from"):
        Schedule([experiment("dpo")], FULL, Place(tmp_path, None)).prepare()


def test_every_mask_that_is_needed_comes_from_an_experiment_of_the_list() -> None:
    for experiments in (short_experiments(), all_experiments()):
        names = [each.name for each in experiments]
        assert len(set(names)) == len(names)
        needed = [(each.only or Subnetwork()).of for each in experiments]
        assert {name for name in needed if name} <= set(names)
