"""Tensors that say they are on a GPU, or pinned, and what each operation of torch does with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.observe.cuda_model.memory import Block, Memory
from tests.observe.cuda_model.order import Agent, Order, Stream

aten = torch.ops.aten
# Their result is on the host, or has a shape that depends on values.
_HOST_WAITS_FOR = {
    aten._local_scalar_dense.default,
    aten.equal.default,
    aten.is_nonzero.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
}
_WRITES_NOTHING = {
    aten.empty.memory_format,
    aten.empty_strided.default,
    aten.empty_like.default,
    aten.new_empty.default,
}


class Machine(Protocol):
    """What tensors want to know of the machine that they are on."""

    order: Order
    memory: Memory

    def current_stream(self, device: torch.device | None = None) -> Stream: ...


class ModelTensor(torch.Tensor):
    """A tensor on a GPU, or in pinned memory.

    For torch it is on the CPU, as a build without CUDA cannot do without; Python is told otherwise.
    """

    inner: torch.Tensor
    block: Block
    machine: Machine

    @staticmethod
    def __new__(cls, inner: torch.Tensor, block: Block, machine: Machine) -> ModelTensor:
        tensor = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device="cpu",
        )
        tensor.inner, tensor.block, tensor.machine = inner, block, machine
        return tensor

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} on a tensor of the model, outside of it")

    def __repr__(self) -> str:  # type: ignore[override]
        return f"ModelTensor({self.block.name}, {self.device}, {list(self.shape)})"

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.block.device

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return self.block.device.type == "cuda"

    @property
    def data(self) -> torch.Tensor:  # type: ignore[override]
        return self.detach()

    @data.setter
    def data(self, other: ModelTensor) -> None:
        assert other.shape == self.shape
        self.inner, self.block = other.inner, other.block

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.inner.untyped_storage()

    def is_pinned(self, device: Any = None) -> bool:
        return not self.is_cuda

    def pin_memory(self, device: Any = None) -> torch.Tensor:
        assert not self.is_cuda, "only tensors in host memory can be pinned"
        return self

    def record_stream(self, stream: Stream) -> None:  # type: ignore[override]
        self.block.recorded.add(stream.name)

    def to(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        if args and isinstance(args[0], torch.Tensor):
            other, *rest = args
            args = (other.device, other.dtype, *rest)
        copy = kwargs.pop("copy", False)
        device, dtype, non_blocking, _ = torch._C._nn._parse_to(*args, **kwargs)
        device = self.device if device is None else _with_index(device, self.machine)
        dtype = dtype or self.dtype
        if device == self.device and dtype == self.dtype and not copy:
            return self
        copied: torch.Tensor = aten._to_copy.default(self, device=device, dtype=dtype, non_blocking=non_blocking)
        return copied

    def cpu(self) -> torch.Tensor:  # type: ignore[override]
        return self.to(torch.device("cpu"))

    def numpy(self) -> Any:  # type: ignore[override]
        return self._on_host("numpy").numpy()

    def tolist(self) -> Any:
        # Of what is on a GPU, torch makes a copy and waits for it.
        return (self.cpu() if self.is_cuda else self._on_host("tolist")).tolist()

    def _on_host(self, what: str) -> torch.Tensor:
        if self.is_cuda:
            raise TypeError(f"can't convert {self.device} device type tensor to numpy")
        order = self.machine.order
        self.machine.memory.touch(self.block, order.host, f"{what}{order.doing()}", writes=False)
        return self.inner


def _with_index(device: torch.device | str, machine: Machine) -> torch.device:
    device = torch.device(device)
    return machine.current_stream().device if device.type == "cuda" and device.index is None else device


class OnModel(TorchDispatchMode):
    """Sees every operation of torch."""

    def __init__(self, machine: Machine) -> None:
        super().__init__()
        self._machine = machine

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [t for t in _tensors((args, kwargs)) if isinstance(t, ModelTensor)]
        device = kwargs.get("device")
        device = None if device is None else _with_index(device, self._machine)
        pinned = bool(kwargs.get("pin_memory")) and device == torch.device("cpu")
        if func is aten.copy_.default and tensors:
            return self._copy(args[0], args[1], non_blocking=bool([*args[2:], kwargs.get("non_blocking")][0]))
        if func is aten._to_copy.default and device is not None and device != args[0].device:
            return self._moved(args[0], device, kwargs)
        if not tensors and not pinned and (device is None or device.type == "cpu"):
            return func(*args, **kwargs)
        if device is not None:
            kwargs["device"] = torch.device("cpu")
        if pinned:
            inner = func(*args, **(kwargs | {"pin_memory": False}))
            return ModelTensor(inner, self._machine.memory.pin("pinned memory", inner), self._machine)
        devices = {t.device for t in tensors if t.is_cuda}
        if device is not None and device.type == "cuda" and not tensors:
            devices = {device}
        if not devices:
            return self._run(func, args, kwargs, tensors, self._machine.order.host)
        self._check_devices(func, devices, args, kwargs)
        return self._run(func, args, kwargs, tensors, self._machine.current_stream(devices.pop()))

    def _check_devices(self, func: Any, devices: set[torch.device], args: Any, kwargs: Any) -> None:
        on_host = [
            t for t in _tensors((args, kwargs)) if t.device.type == "cpu" and (t.ndim or isinstance(t, ModelTensor))
        ]
        if len(devices) > 1 or on_host:
            raise RuntimeError(f"Expected all tensors to be on the same device: {func} on {devices} and {on_host}")

    def _run(self, func: Any, args: Any, kwargs: Any, tensors: Sequence[ModelTensor], agent: Agent) -> Any:
        """Run an operation at once, and say when it may be run."""
        machine = self._machine
        what = f"{func.overloadpacket.__name__}{machine.order.doing()}"
        out = func(*_inner(args), **_inner(kwargs))
        if isinstance(agent, Stream):
            machine.order.ask(agent)
        if not _is_view(func):
            for tensor, writes in _accesses(func, args, kwargs):
                machine.memory.touch(tensor.block, agent, what, writes=writes)
        by_identity = {id(t.inner): t for t in tensors}
        by_storage = {t.inner.untyped_storage()._cdata: t.block for t in tensors}

        def wrap(inner: torch.Tensor) -> torch.Tensor:
            if id(inner) in by_identity:
                return by_identity[id(inner)]
            block = by_storage.get(inner.untyped_storage()._cdata)
            if block is not None:
                return ModelTensor(inner, block, machine)
            if not isinstance(agent, Stream):
                return inner
            block = machine.memory.allocate(f"the result of {what}", inner, agent)
            if func not in _WRITES_NOTHING:
                machine.memory.touch(block, agent, what, writes=True)
            return ModelTensor(inner, block, machine)

        result = _map(wrap, out)
        if isinstance(agent, Stream) and _needs_values(func, args):
            machine.order.host_waits(what, agent.clock)
        return result

    def _moved(self, source: torch.Tensor, device: torch.device, kwargs: Mapping[str, Any]) -> torch.Tensor:
        """Copy to another device, or from or to the host."""
        inner = _inner(source)
        target = inner.to(kwargs.get("dtype") or inner.dtype, copy=True)
        non_blocking = bool(kwargs.get("non_blocking"))
        what = f"a copy to {device}{self._machine.order.doing()}"
        memory = self._machine.memory
        if device.type == "cuda":
            block = memory.allocate(f"the result of {what}", target, self._machine.current_stream(device))
        elif non_blocking:
            # So does torch.
            block = memory.pin(f"the result of {what}", target)
        else:
            self._transfer(source, target, what, non_blocking=False)
            return target
        result = ModelTensor(target, block, self._machine)
        self._transfer(source, result, what, non_blocking=non_blocking)
        return result

    def _copy(self, target: torch.Tensor, source: torch.Tensor, *, non_blocking: bool) -> torch.Tensor:
        _inner(target).copy_(_inner(source))
        self._transfer(source, target, f"copy_{self._machine.order.doing()}", non_blocking=non_blocking)
        return target

    def _transfer(self, source: torch.Tensor, target: torch.Tensor, what: str, *, non_blocking: bool) -> None:
        """Record that `source` is read and `target` written."""
        machine, order = self._machine, self._machine.order
        sides = (source, target)
        streams = [machine.current_stream(t.device) for t in sides if t.device.type == "cuda"]
        agent: Agent = streams[0] if streams else order.host
        for stream in streams:
            order.ask(stream)
        # Between two GPUs: on the source's stream, when the target's has come so far, which then waits for it.
        agent.learn(streams[-1].clock if streams else {})
        for tensor, writes in ((source, False), (target, True)):
            if isinstance(tensor, ModelTensor):
                machine.memory.touch(tensor.block, agent, what, writes=writes)
        if streams:
            streams[-1].learn(agent.clock)
        pageable = any(not isinstance(t, ModelTensor) for t in sides)
        crosses = any(t.device.type == "cpu" for t in sides)
        if streams and crosses and (pageable or not non_blocking):
            order.host_waits(f"{what} {'of pageable memory' if pageable else 'that blocks'}", agent.clock)


def _inner(value: Any) -> Any:
    return _map(lambda t: t.inner if isinstance(t, ModelTensor) else t, value)


def _map(change: Callable[[torch.Tensor], torch.Tensor], value: Any) -> Any:
    """Change the tensors in what an operation is given, or returns."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, list | tuple):
        return type(value)(_map(change, item) for item in value)
    return {key: _map(change, item) for key, item in value.items()} if isinstance(value, dict) else value


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)


def _needs_values(func: Any, args: Sequence[Any]) -> bool:
    """Return whether the host must wait for values to go on."""
    by_booleans = func in {aten.index.Tensor, aten.index_put_.default} and any(
        index.dtype == torch.bool for index in args[1] if index is not None
    )
    return by_booleans or func in _HOST_WAITS_FOR


def _is_view(func: Any) -> bool:
    """Return whether the result shares the memory of what was given, and nothing is read."""
    annotations = [argument.alias_info for argument in func._schema.arguments if argument.alias_info is not None]
    return bool(annotations) and not any(annotation.is_write for annotation in annotations)


def _accesses(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[tuple[ModelTensor, bool]]:
    for i, argument in enumerate(func._schema.arguments):
        given = args[i] if i < len(args) else kwargs.get(argument.name)
        writes = argument.alias_info is not None and argument.alias_info.is_write
        for tensor in _tensors(given):
            if isinstance(tensor, ModelTensor):
                yield tensor, writes
