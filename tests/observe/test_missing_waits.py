"""Each wait of the monitor is taken out, and the model of CUDA must say what goes wrong without it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from monitor.observe.followed import FollowedModel
from monitor.observe.kernels import gpu, several_devices, streamed_base, transfer
from monitor.observe.observer import UpdateObserver
from monitor.observe.passes import Passes
from monitor.observe.streams import OnStream, _OnItsWay
from tests.observe.cuda_model import CudaModel
from tests.observe.mutation import mutate
from tests.observe.training_on_model import Training, small_pieces

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="the real one is there")

HOLD = "self._stream.hold_training()"
WAIT = "self.before_update()"
NOTES = "notes.pin_memory().to(self._model.roster.measured[0].source.device, non_blocking=True)"
REASON = "# Made on the pass's own stream: made on the training's, it would be reused before it is read."
COUNT = "found = chunk.kernel()"
ALSO = "# Also where it fails: what was launched before still reads the buffer when the next pass copies."

# Where, what is taken out, what is there instead, the kind of training that shows it, and what must be said.
MUTATIONS = {
    "a pass that does not wait for the step before": (
        (OnStream, "start"),
        "self._stream.wait_stream(torch.cuda.current_stream(self._device))",
        "",
        {},
        "the kernel in start .* reads the weights .* while .* in the optimizer's step .* writing",
    ),
    "a pass on the training's own stream": (
        (OnStream, "start"),
        "torch.cuda.stream(self._stream)",
        "torch.cuda.stream(torch.cuda.current_stream(self._device))",
        {},
        "(numpy|tolist) in collect on the host reads pinned memory, while copy_ in start .* writing",
    ),
    "an end that is recorded before the copy": (
        (OnStream, "start"),
        "host.copy_(tensor, non_blocking=True)\n        end.record(self._stream)",
        "end.record(self._stream)\n        host.copy_(tensor, non_blocking=True)",
        {},
        "in collect on the host reads pinned memory, while copy_ in start",
    ),
    "a copy of the counts that blocks": (
        (OnStream, "start"),
        "host.copy_(tensor, non_blocking=True)",
        "host.copy_(tensor)",
        {},
        "the host waits for the device: copy_ in start that blocks",
    ),
    "counts in pageable memory": (
        (OnStream, "start"),
        ', device="cpu", pin_memory=True',
        ', device="cpu"',
        {},
        "the host waits for the device: copy_ in start of pageable memory",
    ),
    "an update that does not wait": (
        (OnStream, "hold_training"),
        "torch.cuda.current_stream(self._device).wait_stream(self._stream)",
        "pass",
        {},
        "in the optimizer's step .* writes the weights .* while the kernel in start .* reading",
    ),
    "a before_update that does nothing": (
        (UpdateObserver, "before_update"),
        HOLD,
        "pass",
        {},
        "in the optimizer's step .* writes the weights .* while the kernel in start .* reading",
    ),
    "a result that is not waited for": (
        (_OnItsWay, "result"),
        "self.end.synchronize()",
        "",
        {},
        "in collect on the host reads pinned memory, while copy_ in start",
    ),
    "notes from pageable memory": (
        (Passes, "start"),
        NOTES,
        "notes.to(self._model.roster.measured[0].source.device, non_blocking=True)",
        {},
        "the host waits for the device: a copy to cuda:0 in start of pageable memory",
    ),
    "notes that are copied while the host waits": (
        (Passes, "start"),
        NOTES,
        "notes.pin_memory().to(self._model.roster.measured[0].source.device)",
        {},
        "the host waits for the device: a copy to cuda:0 in start that blocks",
    ),
    "notes on the training's stream": (
        (Passes, "start"),
        f"def count() -> torch.Tensor:\n        there = notes\n        if self._stream.beside_training:\n"
        f"            {REASON}\n            there = {NOTES}",
        f"early = {NOTES}\n\n    def count() -> torch.Tensor:\n        there = early",
        {},
        "memory of the result of a copy to cuda:0 in start is given out again on the training's stream",
    ),
    "parameters that are taken up under a pass": (
        (FollowedModel, "thawed"),
        HOLD,
        "pass",
        {},
        "memory of .* is given out again on the training's stream .* while the kernel in start .* reading",
    ),
    "masks that are read under a pass": (
        (UpdateObserver, "update_mask"),
        WAIT,
        "pass",
        {},
        "in update_mask .* reads .* while the kernel in start .* writing",
    ),
    "touched masks that are saved under a pass": (
        (UpdateObserver, "save_touched"),
        WAIT,
        "pass",
        {},
        "in save_touched .* reads .* while the kernel in start .* writing",
    ),
    "masks that are restored under a pass": (
        (UpdateObserver, "restore"),
        WAIT,
        "pass",
        {},
        "in restore .* writes .* while the kernel in start .* writing",
    ),
    "a mask that is saved under a pass": (
        (UpdateObserver, "save_update_mask"),
        WAIT,
        "pass",
        {},
        "in save_update_mask .* reads .* while the kernel in start .* writing",
    ),
    "tables from pageable memory": (
        (transfer, "to_device"),
        "tensor.pin_memory().to",
        "tensor.to",
        {},
        "the host waits for the device: a copy to cuda:0 in start of pageable memory",
    ),
    "tables that are copied while the host waits": (
        (transfer, "to_device"),
        ", non_blocking=True",
        "",
        {},
        "the host waits for the device: a copy to cuda:0 in start that blocks",
    ),
    "a first piece that overtakes": (
        (streamed_base._Streams, "copy"),
        "self._stream.wait_stream(torch.cuda.current_stream(self._device))",
        "pass",
        {"base_mode": "host"},
        "copy_ in .* writes .* while the allocation of .* writing",
    ),
    "a buffer that is overwritten under the kernel": (
        (streamed_base._Streams, "copy"),
        "self._stream.wait_event(free)",
        "pass",
        {"base_mode": "host"},
        "copy_ in start on stream .* writes .* while the kernel in start .* reading",
    ),
    "a buffer that is never said to be free": (
        (streamed_base._Streams, "measured"),
        "event.record(torch.cuda.current_stream(self._device))",
        "",
        {"base_mode": "host"},
        "copy_ in start on stream .* writes .* while the kernel in start .* reading",
    ),
    "a buffer that is said to be free before it is measured": (
        (streamed_base.StreamedBase, "__call__"),
        f"try:\n            {COUNT}\n        finally:\n            {ALSO}\n            self._streams.measured(i % 2)",
        f"self._streams.measured(i % 2)\n        {COUNT}",
        {"base_mode": "host"},
        "copy_ in start on stream .* writes .* while the kernel in start .* reading",
    ),
    "a kernel that does not wait for its piece": (
        (streamed_base._Streams, "copy"),
        "            target.copy_(source, non_blocking=True)\n"
        "    torch.cuda.current_stream(self._device).wait_stream(self._stream)",
        "            target.copy_(source, non_blocking=True)",
        {"base_mode": "host"},
        "the kernel in start .* reads .* while copy_ in start on stream .* writing",
    ),
    "pieces that are copied while the host waits": (
        (streamed_base._Streams, "copy"),
        "non_blocking=True",
        "non_blocking=False",
        {"base_mode": "host"},
        "the host waits for the device: copy_ in start that blocks",
    ),
    "a launch on the device that happens to be current": (
        (gpu, "_on"),
        'torch.cuda.device(device) if device.type == "cuda" else nullcontext()',
        "nullcontext()",
        {"devices": 2},
        "the kernel in .* runs on cuda:0, and .* is on cuda:1",
    ),
    "counts that come from another GPU while the host waits": (
        (several_devices.SeveralDevices, "_bring"),
        "counts.to(self._home)",
        "to_device(counts.cpu(), self._home)",
        {"devices": 2},
        "the host waits for the device: a copy to cpu in start",
    ),
}


def train_in_every_way(here: Training) -> None:
    """Call everything while a pass is under way."""
    for _ in range(3):
        here.update()
        here.start()
        here.evaluate()
    here.collect()
    for under_way in (here.read_masks, here.save, here.save_mask, here.thaw, here.restore, here.exchange_storage):
        here.update()
        here.start()
        under_way()
        # A step that begins with what has become trainable.
        here.follow()
        here.evaluate()
    here.update()
    here.evaluate()
    here.start()
    here.collect()


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_what_is_taken_out_is_missed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mutation: str) -> None:
    (owner, name), old, new, kind, fault = MUTATIONS[mutation]
    mutate(monkeypatch, owner, name, old, new)
    with small_pieces(), CudaModel(kind.get("devices", 1)) as cuda:
        train_in_every_way(Training(cuda, tmp_path, **kind))
        assert any(re.search(fault, found) for found in cuda.faults), "\n".join(cuda.faults)


@pytest.mark.parametrize("kind", [{}, {"base_mode": "host"}, {"devices": 2}, {"base_mode": "host", "devices": 2}])
def test_as_it_is_nothing_is_missing(tmp_path: Path, kind: dict[str, Any]) -> None:
    with small_pieces(), CudaModel(kind.get("devices", 1)) as cuda:
        train_in_every_way(Training(cuda, tmp_path, **kind))
        assert not cuda.faults, "\n".join(cuda.faults)
