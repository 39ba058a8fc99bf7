"""A loop of one's own whose samples a vLLM server makes: does it serve the weights that train?

VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --worker-extension-cls monitor.observe.served.worker.WorkerExtension

with sparsity-monitor beside vLLM. An engine of another kind is asked in its own way, for `monitor.fingerprint` of its
named tensors; see `monitor.engine_slices` for fused and split ones.
"""

import json
import urllib.request
from collections.abc import Callable, Iterable

import torch
from torch import nn

import monitor

Samples = torch.Tensor
ASK_EVERY = 10  # steps: each time, all weights are read twice


def fingerprints_of(server: str, model: nn.Module, visible_dtype: str = "bfloat16") -> list[dict[str, int]]:
    """Return the fingerprints of what each of the server's workers holds of the model.

    Raises:
        OSError: the server cannot be reached, or does not know the method, for want of the extension.
    """
    # By their sizes, a worker knows parts of parameters that are split in a way it cannot name.
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters(remove_duplicate=False)}
    question = {"method": "sparsity_monitor_fingerprint", "args": [visible_dtype, sizes]}
    request = urllib.request.Request(
        f"{server}/collective_rpc", json.dumps(question).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        found: list[dict[str, int]] = json.load(answer)["results"]
    return found


def train(
    model: nn.Module,
    batches: Iterable[Samples],
    watch: monitor.Watch,
    server: str,
    *,
    hand_over: Callable[[nn.Module], None],
    loss_of: Callable[[nn.Module, Samples], torch.Tensor],
) -> None:
    """Train on what the server generates; `hand_over` gives it the weights after each step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step, samples in enumerate(batches, start=1):
        loss_of(model, samples).backward()
        optimizer.step()
        optimizer.zero_grad()
        watch.step(step)
        hand_over(model)
        # Between the hand-over and the next step, on every process; of several, the first one's answer counts.
        if step == 1 or step % ASK_EVERY == 0:
            found = watch.served(fingerprints_of(server, model))
            if found is not None and not found.is_expected:
                hand_over(model)
