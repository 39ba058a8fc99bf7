"""What has happened before what: the host, streams and events, with vector clocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

Clock = dict[str, int]


@dataclass(frozen=True)
class Moment:
    """One thing that an agent did."""

    agent: str
    time: int


class Agent:
    """The host, or a stream: what it does, it does in order.

    Attributes:
        clock: how much each agent had done of what is known to be done when this one does what it is given next.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.clock: Clock = {}

    def __str__(self) -> str:
        return self.name

    def act(self) -> Moment:
        """Do one thing."""
        self.clock[self.name] = self.clock.get(self.name, 0) + 1
        return Moment(self.name, self.clock[self.name])

    def learn(self, clock: Clock) -> None:
        """Do what comes next after all that this clock has."""
        for name, time in clock.items():
            self.clock[name] = max(self.clock.get(name, 0), time)

    def comes_after(self, moment: Moment) -> bool:
        """Return whether what comes next here is known to come after that moment."""
        return self.clock.get(moment.agent, 0) >= moment.time


class Stream(Agent):
    """As torch.cuda.Stream."""

    def __init__(self, name: str, device: torch.device, order: Order) -> None:
        super().__init__(name)
        self.device = device
        self._order = order

    def wait_stream(self, other: Stream) -> None:
        """Do what comes next after all that the other one was given until now."""
        self._order.ask(self)
        self.learn(other.clock)

    def wait_event(self, event: Event) -> None:
        """Do what comes next after the event; at once, as in CUDA, if it was never recorded."""
        self._order.ask(self)
        self.learn(event.clock)

    def record_event(self, event: Event | None = None) -> Event:
        """Mark the place that is reached now."""
        event = event or Event(self._order)
        event.record(self)
        return event

    def synchronize(self) -> None:
        """Let the host wait for all of it."""
        self._order.host_waits("Stream.synchronize", self.clock)


class Event:
    """As torch.cuda.Event."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self.clock: Clock = {}

    def record(self, stream: Stream) -> None:
        """Mark the place that the stream has reached."""
        self._order.ask(stream)
        stream.act()
        self.clock = dict(stream.clock)

    def wait(self, stream: Stream) -> None:
        """Let a stream wait."""
        stream.wait_event(self)

    def synchronize(self) -> None:
        """Let the host wait; not at all, as in CUDA, if the event was never recorded."""
        self._order.host_waits("Event.synchronize", self.clock)

    def elapsed_time(self, end: Event) -> float:
        """Return some milliseconds, if both are known to be past."""
        for event in (self, end):
            host = self._order.host.clock
            if not event.clock or any(host.get(name, 0) < time for name, time in event.clock.items()):
                raise RuntimeError("CUDA error: an event is not recorded, or not known to be past")
        return 0.25


class Order:
    """The host, and whether it may wait.

    Attributes:
        faults: what was found, each once, in the order of finding it.
    """

    def __init__(self) -> None:
        self.host = Agent("the host")
        self.faults: dict[str, None] = {}
        self.may_wait = True
        # What the training or the monitor is about, for what is said of a fault.
        self.doing: Callable[[], str] = lambda: ""

    def fault(self, text: str) -> None:
        """Report what could go wrong."""
        self.faults[text] = None

    def ask(self, stream: Agent) -> None:
        """Let the host give a stream something to do: after all that the host has done and knows."""
        self.host.act()
        stream.learn(self.host.clock)

    def host_waits(self, what: str, clock: Clock) -> None:
        """Let the host go on when all that a clock has is done."""
        if not self.may_wait:
            self.fault(f"the host waits for the device: {what}{self.doing()}")
        self.host.learn(clock)
