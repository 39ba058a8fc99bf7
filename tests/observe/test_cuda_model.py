"""What the model of CUDA reports, and what it does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from tests.observe.cuda_model import CudaModel

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="the real one is there")
GPU = torch.device("cuda", 0)


@pytest.fixture
def cuda() -> Iterator[CudaModel]:
    with CudaModel(devices=2) as model:
        yield model


def test_torch_computes_on_it(cuda: CudaModel) -> None:
    tensor = torch.arange(6, device="cpu").view(2, 3).to(GPU)
    assert tensor.device == GPU
    assert tensor.is_cuda
    tensor[1] += 10
    assert (tensor.sum(dim=1) * 2).tolist() == [6, 84]
    assert torch.zeros_like(tensor).device == torch.empty(3, device="cuda").device == GPU


def test_tensors_of_two_places_in_one_operation_are_an_error(cuda: CudaModel) -> None:
    here, there = torch.zeros(2, device="cuda:0"), torch.zeros(2, device="cuda:1")
    for other in (there, torch.zeros(2), torch.zeros(2).pin_memory()):
        with pytest.raises(RuntimeError, match="same device"):
            here + other
    with pytest.raises(TypeError, match="can't convert"):
        here.numpy()
    assert (here + torch.tensor(1.0)).tolist() == [1, 1]


def test_what_two_streams_do_has_no_order(cuda: CudaModel) -> None:
    tensor, side = torch.zeros(2, device=GPU), torch.cuda.Stream()
    with torch.cuda.stream(side):
        tensor.sum()
    assert [fault.split(",")[0] for fault in cuda.faults] == ["sum on stream 1 of cuda:0 reads the result of zeros"]


def test_two_that_read_are_not_in_each_others_way(cuda: CudaModel) -> None:
    tensor, side = torch.zeros(2, device=GPU), torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    tensor.sum()
    with torch.cuda.stream(side):
        tensor.sum()
    assert not cuda.faults
    tensor += 1
    assert [fault.split(",")[0] for fault in cuda.faults] == [
        "add_ on the training's stream of cuda:0 writes the result of zeros"
    ]


def by_stream(waiting: torch.cuda.Stream, other: torch.cuda.Stream) -> None:
    waiting.wait_stream(other)


def by_event(waiting: torch.cuda.Stream, other: torch.cuda.Stream) -> None:
    waiting.wait_event(other.record_event())


def by_host(waiting: torch.cuda.Stream, other: torch.cuda.Stream) -> None:
    other.synchronize()


def by_a_third(waiting: torch.cuda.Stream, other: torch.cuda.Stream) -> None:
    third = torch.cuda.Stream()
    third.wait_stream(other)
    waiting.wait_stream(third)


@pytest.mark.parametrize("wait", [by_stream, by_event, by_host, by_a_third])
def test_a_wait_puts_them_in_order(
    cuda: CudaModel, wait: Callable[[torch.cuda.Stream, torch.cuda.Stream], None]
) -> None:
    side, own = torch.cuda.Stream(), torch.cuda.current_stream()
    tensor = torch.zeros(2, device=GPU)
    side.wait_stream(own)
    with torch.cuda.stream(side):
        tensor += 1
    wait(own, side)
    tensor += 1
    assert not cuda.faults


def test_an_event_that_is_recorded_too_early_or_never_is_no_wait(cuda: CudaModel) -> None:
    for early in (True, False):
        tensor, side, event = torch.zeros(2, device=GPU), torch.cuda.Stream(), torch.cuda.Event()
        if early:
            event.record(torch.cuda.current_stream())
        tensor += 1
        side.wait_event(event)
        with torch.cuda.stream(side):
            tensor.sum()
    assert len(cuda.faults) == 2


def test_what_a_device_copies_to_the_host_is_read_when_it_is_there(cuda: CudaModel) -> None:
    tensor, copied = torch.zeros(2, device=GPU), torch.cuda.Event()
    with cuda.nobody_waits():
        host = tensor.to("cpu", non_blocking=True)
        copied.record(torch.cuda.current_stream())
    copied.synchronize()
    assert host.tolist() == [0, 0]
    assert not cuda.faults
    tensor.to("cpu", non_blocking=True).numpy()
    assert len(cuda.faults) == 1


def test_pinned_memory_is_not_written_while_it_is_copied(cuda: CudaModel) -> None:
    pinned = torch.zeros(2).pin_memory()
    pinned.to(GPU, non_blocking=True)
    pinned += 1
    assert [fault.split(",")[0] for fault in cuda.faults] == ["add_ on the host writes a pinned copy"]


@pytest.mark.parametrize(
    "work",
    [
        lambda t: t.cpu(),
        lambda t: t.tolist(),
        lambda t: t.sum().item(),
        lambda t: bool((t == 0).all()),
        lambda t: torch.equal(t, t),
        lambda t: t[t > 0],
        lambda t: torch.zeros(2).to(GPU, non_blocking=True),
        lambda t: torch.zeros(2).pin_memory().to(GPU),
        lambda t: torch.empty(2).copy_(t, non_blocking=True),
        lambda t: torch.cuda.synchronize(),
    ],
)
def test_what_the_host_waits_for(cuda: CudaModel, work: Callable[[torch.Tensor], object]) -> None:
    tensor = torch.zeros(2, device=GPU)
    work(tensor)
    assert not cuda.faults
    with cuda.nobody_waits():
        work(tensor)
    assert [fault.split(":")[0] for fault in cuda.faults] == ["the host waits for the device"]


@pytest.mark.parametrize("known", ["", "record_stream", "wait"])
def test_memory_that_is_freed_is_given_out_again_on_its_own_stream(cuda: CudaModel, known: str) -> None:
    tensor, side = torch.zeros(2, device=GPU), torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        tensor.sum()
    if known == "record_stream":
        tensor.record_stream(side)
    if known == "wait":
        torch.cuda.current_stream().wait_stream(side)
    del tensor
    torch.empty(2, device=GPU)
    assert len(cuda.faults) == (0 if known else 1)


def test_new_memory_is_not_written_before_it_was_given_out(cuda: CudaModel) -> None:
    tensor, side = torch.empty(2, device=GPU), torch.cuda.Stream()
    with torch.cuda.stream(side):
        tensor.zero_()
    assert [fault.split(", while ")[1] for fault in cuda.faults] == [
        "the allocation of the result of empty on the training's stream of cuda:0 may still be writing it"
    ]


def test_a_view_keeps_the_memory(cuda: CudaModel) -> None:
    tensor = torch.zeros(2, 3, device=GPU)
    row = tensor[1]
    address = tensor.data_ptr()
    del tensor
    assert cuda.memory.at(address) is row.block
    del row
    assert cuda.memory.at(address) is None


def test_a_copy_between_gpus_is_in_the_order_of_both(cuda: CudaModel) -> None:
    tensor = torch.zeros(2, device="cuda:1")
    here = tensor.to(GPU)
    tensor += 1
    here += 1
    assert here.tolist() == [1, 1]
    assert not cuda.faults
