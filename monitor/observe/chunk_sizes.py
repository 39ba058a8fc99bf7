"""How much is worked on at a time: each of these sizes, and the reason for it."""

from __future__ import annotations

import torch

# Elements of an operation of torch on a CPU. From 2¹⁵ on, torch splits it among its threads
# (at::internal::GRAIN_SIZE), and waiting for these costs more than they give. int64 intermediates stay in cache.
ELEMENTS_ON_CPU = 1 << 14

# Weights that numpy compares, one operation after the other. Between operations, threads wait for each other at the
# interpreter's lock: with 2¹⁶ weights an operation, two threads take twice as long as with 2¹⁸. From 2²⁰ on, arrays
# leave the cache.
WEIGHTS_IN_NUMPY = 1 << 18
# Weights that a thread with compiled loops takes. Their masks are still in the second-level cache when they are
# intersected with the references'. A multiple of the span that the loops keep in the first-level cache.
WEIGHTS_IN_NUMBA = 1 << 19
SPAN_IN_NUMBA = 1024
# Weights that the specification measures on a GPU: it makes some 60 bytes of each.
WEIGHTS_IN_REFERENCE = 4 << 20
# Bytes of a base in host memory that are copied to the device while as many are measured there.
BYTES_OF_STREAMED_BASE = 64 << 20

# Weights of which low bytes are made on a GPU, and of which a fingerprint is, whose intermediates are int64.
LOW_BYTES_ON_GPU = 1 << 24
FINGERPRINT_ON_GPU = 1 << 22

# Weights that are ranked at a time, once, before the training: in histograms of 65 536 bins, which smaller chunks would
# spend their time on. Larger ones leave the cache.
RANKED_ON_CPU = 1 << 17
RANKED_ON_GPU = 1 << 22
# Parameters of which such histograms meet in one all-reduce: 32 MB.
PARAMETERS_RANKED = 64

# Bytes of what must not move that are summed up at an observation, at least: a millisecond on a CPU.
BYTES_SUMMED_AT_LEAST = 4 << 20

# Words of a mask that are combined or counted on a GPU: the temporaries take some hundred MB.
WORDS_ON_GPU = 1 << 24
# Words that are packed or unpacked. An int32 for each of their bits takes 2 MB: masks of a whole model are packed, too.
# Chunks of 16 MB, which the C library takes from the system one by one, pile up in its heap to ten times that.
WORDS_UNPACKED = 1 << 14
# Words that are read from a mask file to be counted: 4 MB.
WORDS_OF_A_FILE = 1 << 20


def elements_on(device: torch.device, otherwise: int) -> int:
    """Return the chunk size for operations of torch on a CPU, or the one given where the device is another."""
    return ELEMENTS_ON_CPU if device.type == "cpu" else otherwise
