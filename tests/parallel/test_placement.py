"""Spread over processes, a model has the same counts, to the integer, as in one process with the same weights."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.placement_types import Partial

from monitor.errors import ConfigurationError, MaskFileError, SparsityMonitorError, UnsupportedModelError
from monitor.observe.base import mode as base_mode
from monitor.observe.bits import word_count
from monitor.observe.kernels import kernel_for
from monitor.observe.kernels.contract import Counts, Kernel, Rules, Segment
from monitor.observe.masks.file import MaskFile
from monitor.observe.masks.mask import UpdateMask
from monitor.observe.masks.references import ReferenceMask
from monitor.observe.observation import Observation
from monitor.observe.observer import UpdateObserver
from monitor.observe.ranks import join_ranks
from monitor.observe.weights.measured import MeasuredWeights
from monitor.observe.weights.names import clean_name
from monitor.observe.weights.shard import Shard
from tests.parallel.models import make_model, spread, train_step
from tests.parallel.processes import GROUP_TIMEOUT, run_together

# Processes of their own, which one server forks.
pytestmark = pytest.mark.xdist_group("parallel")

STEPS = 3
SHORT_TIMEOUT = timedelta(seconds=6)


def reference_mask() -> UpdateMask:
    torch.manual_seed(9)
    return UpdateMask.from_bools({name: torch.rand(p.shape) < 0.4 for name, p in make_model().named_parameters()})


# Of norms and biases all weights are alike, so that which are the lowest is decided among equals.
STRUCTURAL = {"low magnitude": "lowest:0.1", "chance": "random:0.3"}


def settings(reference: ReferenceMask) -> dict[str, Any]:
    return {"references": {"earlier": reference, **STRUCTURAL}, "tolerances": [1e-3]}


class CountingFile(MaskFile):
    """Counts the words that are read of it."""

    words_read = 0

    def read(self, name: str, first: int = 0, last: int | None = None) -> torch.Tensor:
        words = super().read(name, first, last)
        self.words_read += words.numel()
        return words


def whole(parameter: nn.Parameter) -> torch.Tensor:
    return (parameter.full_tensor() if isinstance(parameter, DTensor) else parameter).detach().clone()


def snapshot(model: nn.Module) -> dict[str, torch.Tensor]:
    """Gather all weights, which the monitor never does, for the comparison with one process."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    if isinstance(model, FullyShardedDataParallel):
        with FullyShardedDataParallel.summon_full_params(model, writeback=False):
            return {clean_name(name): p.detach().clone() for name, p in model.named_parameters()}
    return {clean_name(name): whole(p) for name, p in model.named_parameters()}


def observe_together(how: str, directory: Path) -> dict[str, Any]:
    model = spread(make_model(), how)
    reference = CountingFile(directory / "earlier")
    observer = UpdateObserver(model, **settings(reference))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    weights, observations = [snapshot(model)], []
    for step in range(1, STEPS + 1):
        train_step(model, optimizer, step)
        observations.append(observer.observe(step))
        weights.append(snapshot(model))
    mask, touched = observer.update_mask(), observer.touched_mask()
    observer.save_update_mask(directory / "saved" if dist.get_rank() == 0 else None, "a run")
    return {
        "words_read": reference.words_read,
        "observations": observations,
        "weights": weights,
        "fingerprint": observer.base_fingerprint,
        "masks": [(m.words, m.shapes) for m in (mask, touched)],
        "bytes": UpdateObserver(model).monitor_bytes,
        "names": list(observer.shapes),
        "norm": observer.base_squared_norm.tobytes(),
    }


def observe_alone(weights: list[dict[str, torch.Tensor]]) -> tuple[UpdateObserver, list[Observation]]:
    """Go through the same weights in one process."""
    model = make_model()
    model.load_state_dict(weights[0])
    observer = UpdateObserver(model, **settings(reference_mask()))
    observations = []
    for step, now in enumerate(weights[1:], start=1):
        model.load_state_dict(now)
        observations.append(observer.observe(step))
    return observer, observations


def assert_same(observed: Observation, expected: Observation) -> None:
    assert observed.groups == expected.groups
    for name in ("changed", "newly_changed", "reverted", "step_changed", "touched", "hidden", "non_finite", "max_abs"):
        assert getattr(observed, name).tolist() == getattr(expected, name).tolist(), name
    assert observed.squared_norm == pytest.approx(expected.squared_norm, rel=1e-12)
    assert observed.base_squared_norm == pytest.approx(expected.base_squared_norm, rel=1e-12)
    assert observed.changed_at[1e-3].tolist() == expected.changed_at[1e-3].tolist()
    assert list(observed.references) == list(expected.references) == ["earlier", *STRUCTURAL]
    for name, counts in observed.references.items():
        expected_counts = expected.references[name]
        assert counts.weights.tolist() == expected_counts.weights.tolist()
        assert counts.intersection.tolist() == expected_counts.intersection.tolist(), name
        assert counts.expected_intersection.tolist() == pytest.approx(expected_counts.expected_intersection.tolist())


@pytest.mark.parametrize(
    ("how", "world"),
    [("ddp", 2), ("ddp", 3), ("fsdp2", 2), ("fsdp2", 4), ("hsdp", 4), ("tensor-parallel", 4), ("fsdp1", 2)],
)
def test_spread_weights_have_the_counts_of_one_process(how: str, world: int, tmp_path: Path) -> None:
    reference_mask().save(tmp_path / "earlier")
    results = run_together(observe_together, world, how, tmp_path)
    alone, expected = observe_alone(results[0]["weights"])
    assert expected[-1].changed.sum() > 0
    assert len({result["norm"] for result in results}) == 1
    for result in results:
        assert result["names"] == list(alone.shapes)
        assert result["fingerprint"] == alone.base_fingerprint
        for observed, one in zip(result["observations"], expected, strict=True):
            assert_same(observed, one)
    for (words, shapes), mask in zip(results[0]["masks"], [alone.update_mask(), alone.touched_mask()], strict=True):
        assert (UpdateMask(words, shapes) ^ mask).count() == 0
    saved = UpdateMask.load(tmp_path / "saved")
    assert (saved ^ alone.update_mask()).count() == 0
    assert saved.metadata == replace(alone.update_mask().metadata, run_id="a run")
    # Of the file of a mask, each reads what it measures, and where that begins or ends within a word, this word too.
    words_read = [result["words_read"] for result in results]
    if how != "tensor-parallel":
        words = sum(word_count(math.prod(shape)) for shape in alone.shapes.values())
        assert sum(words_read) <= words + 2 * world * len(alone.shapes)
    # Nobody holds everything, and together they hold what one process would, but for rounding up to words.
    memory = [result["bytes"] for result in results]
    everything = UpdateObserver(make_model()).monitor_bytes
    assert max(memory) < 1.35 * everything / world
    assert sum(memory) < 1.1 * everything


def choose_with_little_memory_on_one_process() -> str:
    base_mode.free_bytes = lambda device: 0 if dist.get_rank() == 1 else None
    return str(UpdateObserver(make_model()).base_mode)


def test_the_process_with_the_least_memory_chooses_where_the_base_is_kept() -> None:
    assert run_together(choose_with_little_memory_on_one_process, 2) == ["low_byte", "low_byte"]


def fail_on_one_process() -> str:
    observer = UpdateObserver(make_model(), bind=bind_broken if dist.get_rank() == 1 else kernel_for)
    try:
        observer.observe(1)
    except SparsityMonitorError as error:
        return str(error)
    except RuntimeError as error:
        return f"own: {error}"
    return "no error"


def bind_broken(segments: Sequence[Segment], rules: Rules) -> Kernel:
    def broken() -> Counts:
        raise RuntimeError("the kernel is broken")

    return broken


def test_a_monitor_that_fails_on_one_process_fails_on_all_and_hangs_none() -> None:
    assert run_together(fail_on_one_process, 2) == [
        "the monitor failed on ranks [1]; their logs say why",
        "own: the kernel is broken",
    ]


def take_memory_from_one_process(what: str) -> None:
    """Let a function of monitor.observe fail on the second process."""
    where, _, name = what.rpartition(".")
    if dist.get_rank() == 1:
        setattr(resolve_name(f"monitor.observe.{where}"), name, without_memory)


def lack_memory_on_one_process(what: str, references: dict[str, UpdateMask | str]) -> str:
    model = make_model()
    model.score.requires_grad_(False)
    observer = UpdateObserver(model, references=references)
    model.requires_grad_(True)
    take_memory_from_one_process(what)
    try:
        observer.follow(model)
    except (SparsityMonitorError, torch.OutOfMemoryError) as error:
        return str(error)
    return "no error"


def without_memory(*_: Any) -> None:
    raise torch.OutOfMemoryError("no memory")


@pytest.mark.parametrize(
    ("what", "references"),
    [
        ("base.kept._keep", {}),
        ("base.kept._keep", {"earlier": reference_mask()}),
        ("masks.references.zero_masks", {"earlier": reference_mask()}),
        ("masks.ranking._histograms", STRUCTURAL),
        ("masks.ranking.pack", STRUCTURAL),
        ("followed.find", {}),
        ("measurement.kernel_for", {}),
    ],
    ids=["keep", "keep-beside-a-reference", "hold-a-reference", "rank", "mark", "find", "bind"],
)
def test_a_process_without_memory_for_what_trains_now_hangs_none(
    what: str, references: dict[str, UpdateMask | str]
) -> None:
    assert run_together(lack_memory_on_one_process, 2, what, references) == [
        "the monitor failed on ranks [1]; their logs say why",
        "no memory",
    ]


class UnreadableFile(MaskFile):
    def read(self, name: str, first: int = 0, last: int | None = None) -> torch.Tensor:
        raise MaskFileError("damaged")


def lack_a_reference_on_one_process(path: Path) -> str:
    reference = UnreadableFile(path) if dist.get_rank() == 1 else MaskFile(path)
    try:
        UpdateObserver(make_model(), references={"earlier": reference})
    except SparsityMonitorError as error:
        return str(error)
    return "no error"


def test_a_process_that_cannot_read_a_reference_hangs_none(tmp_path: Path) -> None:
    reference_mask().save(tmp_path / "earlier")
    assert run_together(lack_a_reference_on_one_process, 2, tmp_path / "earlier") == [
        "the monitor failed on ranks [1]; their logs say why",
        "damaged",
    ]


def save_where_nothing_can_be_written(path: Path) -> tuple[str, int]:
    observer = UpdateObserver(make_model())
    error = ""
    try:
        observer.save_update_mask(path if dist.get_rank() == 0 else None)
    except OSError as failure:
        error = type(failure).__name__
    # Nobody is one collective ahead of the others.
    return error, int(observer.observe(1).changed.sum())


def test_a_mask_that_cannot_be_written_hangs_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert run_together(save_where_nothing_can_be_written, 2, tmp_path / "file" / "mask") == [
        ("FileExistsError", 0),
        ("", 0),
    ]


def start_without_memory_on_one_process(what: str) -> str:
    model = make_model()
    base = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    model.score.requires_grad_(False)
    take_memory_from_one_process(what)
    try:
        UpdateObserver(model, base=base, references={"earlier": reference_mask()})
    except (SparsityMonitorError, torch.OutOfMemoryError) as error:
        return str(error)
    return "no error"


@pytest.mark.parametrize(
    "what",
    [
        "observer.find",
        "base.fingerprint.weight_sums",
        "base.kept._keep",
        "state.previous_weights",
        "measurement.kernel_for",
        "masks.references.count_ones",
        "base.weights._differs_here",
        "measurement.Measurement.measure",
    ],
)
def test_a_process_without_memory_at_the_start_hangs_none(what: str) -> None:
    assert run_together(start_without_memory_on_one_process, 2, what) == [
        "the monitor failed on ranks [1]; their logs say why",
        "no memory",
    ]


def restore_without_memory_on_one_process() -> str:
    observer = UpdateObserver(make_model())
    take_memory_from_one_process("measurement.Measurement.measure")
    try:
        observer.restore([])
    except (SparsityMonitorError, torch.OutOfMemoryError) as error:
        return str(error)
    return "no error"


def test_a_process_without_memory_when_training_goes_on_hangs_none() -> None:
    assert run_together(restore_without_memory_on_one_process, 2) == [
        "the monitor failed on ranks [1]; their logs say why",
        "no memory",
    ]


def copy_a_mask_without_memory_on_one_process() -> tuple[str, int]:
    observer = UpdateObserver(make_model())
    if dist.get_rank() == 1:
        MeasuredWeights.words_in_whole = without_memory_for_one
    error = ""
    try:
        observer.update_mask()
    except (SparsityMonitorError, torch.OutOfMemoryError) as failure:
        error = str(failure)
    # Nobody is one collective ahead of the others.
    return error, int(observer.observe(1).changed.sum())


def without_memory_for_one(weights: MeasuredWeights, words: torch.Tensor) -> torch.Tensor:
    if weights.name == "score.weight":
        raise torch.OutOfMemoryError("no memory")
    return Shard.words_in_whole(weights, words)


def test_a_process_without_memory_for_a_mask_hangs_none() -> None:
    failed = "the monitor failed on ranks [1]; their logs say why"
    assert run_together(copy_a_mask_without_memory_on_one_process, 2) == [(failed, 0), ("no memory", 0)]


def give_other_references_on_one_process(given: Sequence[dict[str, UpdateMask | str]]) -> str:
    try:
        UpdateObserver(make_model(), references=given[dist.get_rank()])
    except ConfigurationError as error:
        return str(error)
    return "no error"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (({"earlier": reference_mask()}, {"other": reference_mask()}), ("['earlier']", "['other']")),
        (({"low": "lowest:0.1"}, {"low": "lowest:0.2"}), ("['low=lowest:0.1']", "['low=lowest:0.2']")),
    ],
    ids=["names", "shares"],
)
def test_references_that_differ_between_processes_are_refused_by_name(given: Any, told: tuple[str, str]) -> None:
    for message, references in zip(run_together(give_other_references_on_one_process, 2, given), told, strict=True):
        assert message.startswith(f"references are {references} here; expected the same names")


def keep_low_bytes_of_float32_weights() -> str:
    torch.manual_seed(0)
    model = nn.ModuleDict({"a": nn.Linear(8, 8, bias=False), "b": nn.Linear(1, 8, bias=False)})
    return str(UpdateObserver(model, base_mode="low_byte").base_mode)


def test_a_process_that_has_nothing_of_a_parameter_has_no_low_bytes_of_it() -> None:
    assert run_together(keep_low_bytes_of_float32_weights, 2) == ["device"] * 2


def lose_a_process() -> str:
    observer = UpdateObserver(make_model())
    observer.observe(1)
    if dist.get_rank() == 1:
        os._exit(0)
    started = time.monotonic()
    try:
        observer.observe(2)
    except RuntimeError as error:
        # Well before the process group's timeout, as the connection is gone.
        return "ended" if time.monotonic() - started < GROUP_TIMEOUT.total_seconds() else str(error)
    return "no error"


def test_a_process_that_dies_does_not_hold_up_the_others() -> None:
    assert run_together(lose_a_process, 2) == ["ended", None]


def wait_for_a_stuck_process(store: Path) -> tuple[bool, float]:
    """Return whether the monitor gave up, and after how many seconds of those that the training would wait."""
    ranks = join_ranks(torch.device("cpu"))
    given_up = dist.FileStore(str(store), 2)
    if dist.get_rank() == 1:
        given_up.wait(["given up"], 10 * SHORT_TIMEOUT)
        os._exit(0)
    started = time.monotonic()
    try:
        ranks.sum(torch.zeros(1, dtype=torch.int64))
    except RuntimeError:
        return True, (time.monotonic() - started) / SHORT_TIMEOUT.total_seconds()
    finally:
        given_up.set("given up", "")
    return False, 0.0


def test_a_process_that_is_stuck_holds_the_others_up_no_longer_than_in_the_training(tmp_path: Path) -> None:
    (gave_up, waited), _ = run_together(wait_for_a_stuck_process, 2, tmp_path / "store", timeout=SHORT_TIMEOUT)
    assert gave_up
    assert 0.9 < waited < 2


def observe_partial_sums() -> str:
    mesh = init_device_mesh("cpu", (2,))
    model = make_model()
    model.score.weight = nn.Parameter(DTensor.from_local(model.score.weight.detach(), mesh, [Partial()]))
    try:
        UpdateObserver(model)
    except UnsupportedModelError as error:
        return str(error)
    return "no error"


def test_weights_that_are_partial_sums_are_refused_by_name() -> None:
    for message in run_together(observe_partial_sums, 2):
        assert message.startswith("score.weight is placed as")


def observe_offloaded(in_memory: int) -> str:
    """Observe a parameter as DeepSpeed leaves it whose half of the weights is on NVMe, and maybe still in memory."""
    model = make_model()
    weight = model.layers[0].up_proj.weight
    weight.ds_shape, weight.ds_numel, weight.ds_process_group = weight.shape, weight.numel(), dist.group.WORLD
    weight.ds_tensor = torch.ones(in_memory)
    weight.ds_tensor.ds_numel, weight.ds_tensor.final_location = weight.numel() // 2, OffloadedTo.nvme
    weight.data = torch.empty(0)
    try:
        UpdateObserver(model)
    except UnsupportedModelError as error:
        return str(error)
    return "no error"


class OffloadedTo(StrEnum):
    """As DeepSpeed's OffloadDeviceEnum."""

    nvme = "nvme"


@pytest.mark.parametrize("in_memory", [1, 36 * 52 // 2], ids=["swapped-out", "not-yet-swapped-out"])
def test_zero3_parameters_on_nvme_are_refused_by_name(in_memory: int) -> None:
    for message in run_together(observe_offloaded, 2, in_memory):
        assert message.startswith("layers.0.up_proj.weight is offloaded to NVMe")


def observe_different_replicas() -> str:
    model = make_model()
    with torch.no_grad():
        model.score.weight += dist.get_rank()
    try:
        UpdateObserver(model)
    except UnsupportedModelError as error:
        return str(error)
    return "no error"


def test_replicas_that_differ_are_refused_by_name() -> None:
    for message in run_together(observe_different_replicas, 2):
        assert "score.weight" in message
        assert "differs between processes" in message


def observe_a_stage(layers: list[list[str]]) -> str:
    """Observe the layers of this process, all of them zero, under the names that they have in the whole model."""
    own = layers[dist.get_rank()]
    model = nn.ModuleDict({name: nn.Linear(8, 8, bias=False) for name in own})
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    try:
        UpdateObserver(model)
    except UnsupportedModelError as error:
        return str(error)
    return "no error"


@pytest.mark.parametrize(
    ("layers", "named"),
    [
        ([["0", "1"], ["2"]], ["rank 0: 0.weight, 1.weight.", "rank 1: 2.weight."]),
        ([["0"], ["1"]], ["rank 0: 0.weight.", "rank 1: 1.weight."]),
        ([["0", "1"], ["0"]], ["rank 0: 1.weight.", "rank 1: none."]),
    ],
    ids=["another-number", "the-same-number", "a-part"],
)
def test_pipeline_stages_are_refused_by_name(layers: list[list[str]], named: list[str]) -> None:
    for message, names in zip(run_together(observe_a_stage, 2, layers), named, strict=True):
        assert "other names or shapes" in message
        assert names in message


def save_touched(how: str, directory: str) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    model = spread(make_model(), how)
    observer = UpdateObserver(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in (1, 2):
        train_step(model, optimizer, step)
        observer.observe(step)
    observer.save_touched(Path(directory))
    touched = observer.touched_mask()
    return snapshot(model), touched.words


def restore_touched(how: str, directory: str, weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Resume from the weights, and say what is known then."""
    model = make_model()
    base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(weights)
    observer = UpdateObserver(spread(model, how), base=base, first_step=2)
    found = observer.restore([Path(directory) / "nothing here", Path(directory)])
    observation = observer.observe(3)
    return {
        "found": found,
        "touched": observer.touched_mask().words,
        "moved": int(observation.step_changed.sum() + observation.newly_changed.sum()),
        "counted": int(observation.touched.sum()),
    }


def changed(weights: dict[str, torch.Tensor]) -> UpdateMask:
    base = make_model().state_dict()
    return UpdateMask.from_bools({name: w.bfloat16() != base[name].bfloat16() for name, w in weights.items()})


@pytest.mark.parametrize(
    ("how", "world", "then_how", "then_world"),
    [("ddp", 2, "ddp", 3), ("fsdp2", 3, "fsdp2", 3), ("fsdp2", 2, "hsdp", 4)],
)
def test_touched_weights_are_restored_however_the_model_is_spread_then(
    how: str, world: int, then_how: str, then_world: int, tmp_path: Path
) -> None:
    # What a training on more processes left there at this step is not mixed with it.
    (tmp_path / "touched_mask-00004-of-00005.safetensors").write_bytes(b"stale")
    weights, touched = run_together(save_touched, world, how, str(tmp_path))[0]
    assert len(list(tmp_path.iterdir())) == world
    results = run_together(restore_touched, then_world, then_how, str(tmp_path), weights)
    ones = UpdateMask(touched, changed(weights).shapes).count()
    assert ones > changed(weights).count()
    for result in results:
        assert (result["found"], result["moved"], result["counted"]) == (True, 0, ones)
    assert all(torch.equal(results[0]["touched"][name], words) for name, words in touched.items())


def test_touched_weights_that_one_process_cannot_find_are_known_to_none(tmp_path: Path) -> None:
    weights, _ = run_together(save_touched, 2, "fsdp2", str(tmp_path))[0]
    (tmp_path / "touched_mask-00001-of-00002.safetensors").unlink()
    results = run_together(restore_touched, 2, "fsdp2", str(tmp_path), weights)
    expected = changed(weights).count()
    assert [(result["found"], result["counted"]) for result in results] == [(False, expected)] * 2


def observe_transposed() -> list[list[int]]:
    model = make_model()
    model.score.weight = nn.Parameter(torch.zeros(36, 52).t())
    observer = UpdateObserver(model)
    with torch.no_grad():
        model.score.weight[3, 4:] += 1.0
    return observer.observe(1).changed.tolist()


def test_replicas_that_are_not_contiguous_are_measured_once() -> None:
    alone, *together = [observe_transposed(), *run_together(observe_transposed, 2)]
    assert sum(alone) == 32
    assert together == [alone] * 2
