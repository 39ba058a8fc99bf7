"""The Triton kernel of the monitor on the model: what its tables say, measured by the specification."""

from __future__ import annotations

import ctypes
from functools import partial
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from monitor.observe.criterion import Criterion
from monitor.observe.kernels import kinds, reference
from monitor.observe.kernels.contract import BITS_PER_WORD, Rules, Segment, word_count
from tests.observe.cuda_model.order import Stream
from tests.observe.cuda_model.tensors import Machine, ModelTensor

_DTYPES = {
    kinds.BFLOAT16: torch.bfloat16,
    kinds.FLOAT16: torch.float16,
    kinds.FLOAT32: torch.float32,
    kinds.LOW_BYTE: torch.uint8,
}
_READS, _WRITES = False, True


class Launcher:
    """In place of the compiled `triton_tiles.measure`."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def __getitem__(self, grid: tuple[int]) -> Any:
        return partial(self._launch, grid[0])

    def _launch(
        self,
        programs: int,
        tiles: ModelTensor,
        table: ModelTensor,
        limits: ModelTensor,
        limit: int,
        integers: ModelTensor,
        squares: ModelTensor,
        largest: ModelTensor,
        table_columns: int,
        count_columns: int,
        **constants: Any,
    ) -> None:
        # Triton launches on the current device, whatever the addresses are.
        stream = self._machine.current_stream()
        self._machine.order.ask(stream)
        for tensor in (tiles, table, limits):
            self._touch(tensor.data_ptr(), stream, _READS)
        for tensor in (integers, squares, largest):
            self._touch(tensor.data_ptr(), stream, _WRITES)
        rules = _rules(limits.inner, limit, constants)
        with _disable_current_modes():
            for line, first in tiles.inner[:programs].tolist():
                row = table.inner[line].tolist()
                assert len(row) == table_columns
                self._tile(row, first, rules, (integers.inner, squares.inner, largest.inner), stream, constants)

    def _touch(self, address: int, stream: Stream, writes: bool) -> None:
        block = self._machine.memory.at(address)
        what = f"the kernel{self._machine.order.doing()}"
        if block is None:
            self._machine.order.fault(f"{what} is given the address of memory that is freed")
        elif block.device != stream.device:
            self._machine.order.fault(f"{what} runs on {stream.device}, and {block.name} is on {block.device}")
        else:
            self._machine.memory.touch(block, stream, what, writes=writes)

    def _tile(
        self,
        line: list[int],
        first: int,
        rules: Rules,
        totals: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        stream: Stream,
        constants: dict[str, Any],
    ) -> None:
        current, base, mask, previous, touched, weights, row, *references = line
        block = constants["WORDS"] * BITS_PER_WORD
        count = min(weights - first, block * constants["BLOCKS"])
        count = count // block * block if constants["WIDE"] else count
        if not count:
            return
        steps = constants["STEPS"]
        for address in (current, base, *references):
            self._touch(address, stream, _READS)
        for address in (mask, *((previous, touched) if steps else ())):
            self._touch(address, stream, _WRITES)
        stored, kept = _DTYPES[constants["STORED"]], _DTYPES[constants["KEPT"]]
        before = torch.float32 if rules.visible_dtype == torch.float32 else torch.uint8
        words = first // BITS_PER_WORD

        def bits(address: int) -> torch.Tensor:
            return _at(address, torch.int32, words, word_count(count))

        segment = Segment(
            current=_at(current, stored, first, count),
            base=_at(base, kept, first, count),
            mask=bits(mask),
            previous=_at(previous, before, first, count) if steps else None,
            touched=bits(touched) if steps else None,
            references=tuple(bits(address) for address in references),
        )
        counts = reference.measure([segment], rules)
        integers, squares, largest = totals
        integers[row] += counts.integers[0]
        squares[row] += counts.floats[0, 0]
        largest[row] = torch.maximum(largest[row], counts.floats[0, 1].float().view(torch.int32).long())


def _rules(limits: torch.Tensor, limit: int, constants: dict[str, Any]) -> Rules:
    tolerances = limits.view(torch.float32)[: constants["LIMITS"]].tolist()
    bound = torch.tensor(limit, dtype=torch.int32).view(torch.float32).item()
    return Rules(
        _DTYPES[constants["VISIBLE"]],
        Criterion.parse(f"atol={bound!r}" if constants["ATOL"] else "bits"),
        tuple(tolerances),
    )


def _at(address: int, dtype: torch.dtype, first: int, count: int) -> torch.Tensor:
    """Return what is at an address of this process, from an element on."""
    memory = (ctypes.c_char * (count * dtype.itemsize)).from_address(address + first * dtype.itemsize)
    return torch.frombuffer(memory, dtype=dtype, count=count)
