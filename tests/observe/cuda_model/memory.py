"""Buffers, who is at work on them, and the allocator, which gives memory out again in the order of one stream."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field

import torch

from tests.observe.cuda_model.order import Agent, Moment, Order, Stream


@dataclass(frozen=True)
class Access:
    """The latest read or write by one agent."""

    moment: Moment
    what: str
    writes: bool


@dataclass(eq=False)
class Block:
    """The memory of a tensor and its views, on a GPU or pinned.

    Attributes:
        device: the CPU, of pinned memory.
        home: the stream that it was allocated on; None of pinned memory, which torch keeps until copies are done.
        recorded: streams that `record_stream` named.
    """

    name: str
    device: torch.device
    memory: Memory
    addresses: range
    home: Stream | None = None
    reads: dict[str, Access] = field(default_factory=dict)
    writes: dict[str, Access] = field(default_factory=dict)
    recorded: set[str] = field(default_factory=set)

    def __del__(self) -> None:
        self.memory.freed(self)


@dataclass(frozen=True)
class _Freed:
    name: str
    accesses: list[Access]


class Memory:
    """All buffers of a machine."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._live: weakref.WeakSet[Block] = weakref.WeakSet()
        self._freed: dict[str, list[_Freed]] = {}

    def allocate(self, name: str, inner: torch.Tensor, stream: Stream) -> Block:
        """Give memory out on a stream: perhaps what was freed on it before."""
        for freed in self._freed.pop(stream.name, []):
            for access in freed.accesses:
                if not stream.comes_after(access.moment):
                    self._order.fault(
                        f"memory of {freed.name} is given out again on {stream}, while {access.what} on "
                        f"{access.moment.agent} may still be {_doing(access)} it{self._order.doing()}"
                    )
        block = Block(name, stream.device, self, _addresses(inner), home=stream)
        self._live.add(block)
        self._order.ask(stream)
        # Whoever writes to it must come after what the memory was used for until now.
        block.writes[stream.name] = Access(stream.act(), f"the allocation of {name}", writes=True)
        return block

    def pin(self, name: str, inner: torch.Tensor) -> Block:
        """Give out pinned host memory, which is never used again too early."""
        return Block(name, torch.device("cpu"), self, _addresses(inner))

    def touch(self, block: Block, agent: Agent, what: str, *, writes: bool) -> None:
        """Let an agent read or write a buffer as the thing that it does next."""
        earlier = [*block.writes.values(), *(block.reads.values() if writes else ())]
        for access in earlier:
            if not agent.comes_after(access.moment):
                self._order.fault(
                    f"{what} on {agent} {'writes' if writes else 'reads'} {block.name}, while {access.what} on "
                    f"{access.moment.agent} may still be {_doing(access)} it"
                )
        (block.writes if writes else block.reads)[agent.name] = Access(agent.act(), what, writes)

    def at(self, address: int) -> Block | None:
        """Return the memory on a GPU that an address is in; None where there is none any more."""
        return next((block for block in self._live if address in block.addresses), None)

    def freed(self, block: Block) -> None:
        """Take memory back."""
        if block.home is None:
            return
        accesses = [
            access
            for access in (*block.reads.values(), *block.writes.values())
            if access.moment.agent not in block.recorded
        ]
        self._freed.setdefault(block.home.name, []).append(_Freed(block.name, accesses))


def _addresses(inner: torch.Tensor) -> range:
    start = inner.untyped_storage().data_ptr()
    return range(start, start + inner.untyped_storage().nbytes())


def _doing(access: Access) -> str:
    return "writing" if access.writes else "reading"
