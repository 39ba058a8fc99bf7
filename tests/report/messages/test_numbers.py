"""What holds one number is taken as that number, whatever holds it; what does not is left out, and nothing waits."""

from __future__ import annotations

import math
import sys
from decimal import Decimal
from enum import IntEnum
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from monitor.report.messages.numbers import Coming, number_in, numbers_in


class Level(IntEnum):
    HIGH = 3


TORCH_DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
]


@pytest.mark.parametrize("dtype", TORCH_DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_a_tensor_of_one_element_is_a_number_in_any_dtype(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    assert number_in(torch.ones(shape, dtype=dtype)) == 1.0


@pytest.mark.parametrize("code", "?bhilqBHILQefdg")
@pytest.mark.parametrize("shape", [(), (1,)])
def test_numpy_holds_numbers_as_scalars_and_as_arrays_of_one(code: str, shape: tuple[int, ...]) -> None:
    array = np.ones(shape, dtype=code)
    assert number_in(array) == 1.0
    assert number_in(array.reshape(1)[0]) == 1.0


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (3, 3.0),
        (True, 1.0),
        (Decimal("0.25"), 0.25),
        (Fraction(1, 4), 0.25),
        (Level.HIGH, 3.0),
        (torch.nn.Parameter(torch.tensor(2.5)), 2.5),
        (torch.tensor(2.5, requires_grad=True) * 2, 5.0),
        (np.float32("inf"), math.inf),
        (np.array(0.5, dtype=object), 0.5),
    ],
)
def test_other_numbers_are_numbers(value: object, number: float) -> None:
    assert number_in(value) == number


@pytest.mark.parametrize(
    "value",
    [
        None,
        "1.5",
        b"1",
        np.str_("1.5"),
        np.array("1.5"),
        1j,
        np.complex64(1),
        torch.tensor(1j),
        [1.0],
        {"a": 1.0},
        torch.ones(2),
        torch.ones(0),
        np.ones(2),
        torch.ones((), device="meta"),
        10**400,
        Decimal("sNaN"),
        object(),
        np.datetime64("2026-01-01"),
    ],
)
def test_what_holds_no_number_or_several_is_left_out(value: object) -> None:
    assert number_in(value) is None


def test_numbers_are_kept_even_if_not_finite() -> None:
    found = numbers_in({"loss": float("nan"), "reward": torch.tensor(float("-inf")), "text": "x"})
    assert repr(found) == repr({"loss": float("nan"), "reward": float("-inf")})


def test_a_tensor_that_is_overwritten_later_is_the_number_that_was_logged() -> None:
    running = torch.tensor([0.5])
    found = numbers_in({"loss": running})
    running.fill_(7.0)
    assert float(found["loss"]) == 0.5


class OnDevice:
    """What a tensor on a GPU is for who reads it: its value comes only after the device was waited for."""

    def __init__(self, count: int = 1) -> None:
        self.device = SimpleNamespace(type="cuda", index=0)
        self.count = count
        self.told: list[str] = []

    def numel(self) -> int:
        return self.count

    def detach(self) -> OnDevice:
        return self

    def to(self, device: str, *, non_blocking: bool) -> OnDevice:
        assert (device, non_blocking) == ("cpu", True)
        self.told.append("copied")
        return self

    def item(self) -> float:
        assert self.told == ["copied", "recorded", "waited"], "read before the device had written it"
        return 2.5

    def record_event(self) -> OnDevice:
        self.told.append("recorded")
        return self

    def synchronize(self) -> None:
        self.told.append("waited")


def test_a_gpu_is_waited_for_only_where_its_number_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = OnDevice()
    module = SimpleNamespace(current_stream=lambda device: tensor)
    monkeypatch.setattr(sys.modules["torch"], "get_device_module", lambda device: module)
    number = number_in(tensor)
    assert isinstance(number, Coming)
    # Whoever hands it on does not wait either.
    assert number_in(number) is number
    assert tensor.told == ["copied", "recorded"]
    assert float(number) == 2.5


def test_several_numbers_on_a_gpu_are_not_even_copied() -> None:
    tensor = OnDevice(count=2)
    assert number_in(tensor) is None
    assert tensor.told == []


def test_what_is_spread_over_processes_is_not_read_by_one_of_them() -> None:
    class Spread:
        device = torch.device("cpu")

        def to_local(self) -> None: ...

        def item(self) -> float:
            raise AssertionError("a collective in one process waits for ever")

    assert number_in(Spread()) is None
