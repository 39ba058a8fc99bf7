"""A model of CUDA on the CPU, for tests of what happens in which order: it stands in for CUDA because none is there.

What runs is the monitor's own code, on tensors that say that they are on `cuda:N`. Their values are computed on the CPU
at once, in the order in which the host asks for it; what the model adds is a record of what CUDA would have promised:

- order (order.py): a stream works in the order in which it was given its work. Between streams, and between a stream
  and the host, nothing is in order but by `wait_stream`, `wait_event` and the host's waiting. Streams that were made by
  hand are not in the order of the default stream, as those of torch are not.
- memory (memory.py): reads and writes of a buffer that are in no order are a fault. So is memory that the allocator
  gives out again on the stream that it was allocated on, while another stream may still be at work on it.
- tensors (tensors.py): every operation of torch runs on the current stream of its tensors' device. Copies between
  devices, from and to pinned memory, and those for which the host waits do as in torch. Tensors of several devices in
  one operation are an error.
- launches (launches.py): the Triton kernel, in place of which the specification runs on the addresses in its tables.

A fault is what might go wrong on some GPU at some time, whether or not the values here came out right. Not modelled:
that allocating may wait for the device, how long anything takes, graphs, peer access, NCCL, and the parts of a buffer,
which is read and written as a whole.
"""

from tests.observe.cuda_model.machine import CudaModel

__all__ = ["CudaModel"]
