"""A training on the model of CUDA, and beside it a twin on the CPU, whose observer measures everything at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from monitor.observe.kernels.streamed_base import StreamedBase
from monitor.observe.masks.mask import UpdateMask
from monitor.observe.observation import Observation
from monitor.observe.observer import UpdateObserver
from tests.observe.cuda_model import CudaModel

# One with whole blocks of the kernel and a rest, one of an odd size, one that is strided; the last one starts frozen.
SHAPES = {"wide": (70, 50), "narrow": (33, 5), "strided": (40, 24), "frozen": (9, 7)}
# A piece of the base has some rows of the largest parameter.
PIECE_BYTES = 1024


class Layers(nn.Module):
    """Parameters, and nothing to compute with them."""

    def __init__(self, parameters: dict[str, torch.Tensor]) -> None:
        super().__init__()
        for name, values in parameters.items():
            setattr(self, name, nn.Parameter(values, requires_grad=name != "frozen"))


class Training:
    """What a training and whoever watches it do, each thing on the model and on its twin.

    Args:
        cuda: the model of CUDA.
        devices: GPUs over which the parameters are spread.
        base_mode: where the base is kept on the model; "shared" is a module's.
        directory: where touched masks are saved.
    """

    def __init__(self, cuda: CudaModel, directory: Path, *, devices: int = 1, base_mode: str = "device") -> None:
        self.cuda = cuda
        self._directory = directory
        generator = torch.Generator().manual_seed(0)
        values = {name: torch.randn(shape, generator=generator).bfloat16() for name, shape in SHAPES.items()}
        on_gpu = {
            name: cuda.tensor(tensor, f"the weights {name!r}", i % devices)
            for i, (name, tensor) in enumerate(values.items())
        }
        on_gpu["strided"] = on_gpu["strided"].t()
        values["strided"] = values["strided"].t()
        reference = UpdateMask.from_bools({name: values[name] > 0 for name in SHAPES})
        self.model, self._twin = Layers(on_gpu), Layers(values)
        settings = {"references": {"positive": reference}, "tolerances": [1e-3]}
        twin_mode = base_mode if base_mode == "low_byte" else "device"
        with cuda.doing("making the observer"):
            base = None
            if base_mode == "shared":
                base, base_mode = Layers({name: tensor.clone() for name, tensor in on_gpu.items()}), "auto"
            self.observer = UpdateObserver(self.model, base=base, base_mode=base_mode, **settings)
        self._expected_of = UpdateObserver(self._twin, base_mode=twin_mode, **settings)
        self._expected: list[Observation] = []
        self._step = 0
        self._updates = 0

    def evaluate(self) -> None:
        """Read the weights."""
        with self.cuda.doing("the evaluation"), torch.no_grad():
            for parameter in self.model.parameters():
                parameter.sum()

    def update(self) -> None:
        """Train a step, as a caller is told to: what has become trainable is taken up, and weights wait to change."""
        trainable = [p.requires_grad for p in self.model.parameters()]
        measured = [name in self.observer.shapes for name in SHAPES]
        with self.cuda.doing("follow"), self._nobody_waits(trainable == measured):
            self.observer.follow(self.model)
        self._expected_of.follow(self._twin)
        self.let_the_update_wait()
        self.change_the_weights()

    def let_the_update_wait(self) -> None:
        """Say that the weights will change."""
        with self.cuda.doing("before_update"), self.cuda.nobody_waits():
            self.observer.before_update()

    def change_the_weights(self) -> None:
        """Write to what trains: by a few representable steps, to different weights each time, some back again."""
        self._updates += 1
        with self.cuda.doing("the optimizer's step"), torch.no_grad():
            for model in (self.model, self._twin):
                for parameter in model.parameters():
                    if parameter.requires_grad:
                        parameter[self._updates % 3 :: 3] *= 1.0078125 if self._updates % 4 else 0.9921875

    def exchange_storage(self) -> None:
        """Put the weights elsewhere, as wrappers do."""
        self.let_the_update_wait()
        with self.cuda.doing("an exchange of storage"):
            for model in (self.model, self._twin):
                model.wide.data = model.wide.data.clone()

    def start(self) -> None:
        """Begin an observation."""
        self._step += 1
        with self.cuda.doing("start"), self.cuda.nobody_waits():
            self.observer.start(self._step)
        self._expected.append(self._expected_of.observe(self._step))

    def collect(self) -> None:
        """Take what was begun, and compare it with what the twin saw."""
        with self.cuda.doing("collect"):
            found = self.observer.collect()
        expected, self._expected = self._expected, []
        assert len(found) == len(expected)
        for mine, twins in zip(found, expected, strict=True):
            assert_same(mine, twins)

    def observe(self) -> None:
        """Observe at once."""
        self._step += 1
        with self.cuda.doing("observe"):
            found = self.observer.observe(self._step)
        assert_same(found, self._expected_of.observe(self._step))

    def read_masks(self) -> None:
        """Copy the masks."""
        with self.cuda.doing("update_mask"):
            mine = [self.observer.update_mask(), self.observer.touched_mask()]
        for mask, expected in zip(
            mine, [self._expected_of.update_mask(), self._expected_of.touched_mask()], strict=True
        ):
            assert mask is not None
            assert expected is not None
            assert all(torch.equal(mask.words[name], expected.words[name]) for name in expected.shapes)

    def save(self) -> None:
        """Write what was touched."""
        with self.cuda.doing("save_touched"):
            self.observer.save_touched(self._directory / "model")
        self._expected_of.save_touched(self._directory / "twin")

    def save_mask(self) -> None:
        """Write the mask."""
        with self.cuda.doing("save_update_mask"):
            self.observer.save_update_mask(self._directory / "mask.safetensors")

    def restore(self) -> None:
        """Go on from the weights as they are, and from what was saved at this step."""
        with self.cuda.doing("restore"):
            found = self.observer.restore([self._directory / "model"])
        assert found == self._expected_of.restore([self._directory / "twin"])

    def thaw(self) -> None:
        """Let the frozen parameter train from the next step on."""
        for model in (self.model, self._twin):
            model.frozen.requires_grad_(True)

    @contextmanager
    def _nobody_waits(self, forbidden: bool) -> Iterator[None]:
        """Forbid to wait, unless parameters are taken up: that copies their masks, once."""
        if not forbidden:
            yield
            return
        with self.cuda.nobody_waits():
            yield


def assert_same(found: Observation, expected: Observation) -> None:
    """Compare all counts."""
    assert (found.step, found.stride) == (expected.step, expected.stride)
    for name in ("changed", "newly_changed", "reverted", "step_changed", "touched", "hidden", "non_finite", "max_abs"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
    for tolerance, counts in expected.changed_at.items():
        np.testing.assert_array_equal(found.changed_at[tolerance], counts)
    for name, reference in expected.references.items():
        np.testing.assert_array_equal(found.references[name].intersection, reference.intersection)
    assert found.device_seconds > 0


@contextmanager
def small_pieces() -> Iterator[None]:
    """Let a base in host memory come in so many pieces that both buffers are used again and again."""
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(StreamedBase.__init__, "__defaults__", (PIECE_BYTES,))
        yield
