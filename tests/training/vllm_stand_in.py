"""Stands in for vLLM where TRL and the monitor touch it, since vLLM does not run without a GPU.

The names are vLLM's: `LLM.generate`, `collective_rpc(method, timeout, args, kwargs)`, which calls a function with each
worker or a method of it, `sleep`, `wake_up`, `reset_prefix_cache`, `load_weights` of the worker's model; of a worker
`rank`, `get_model`, `parallel_config` and `model_config`; and POST /collective_rpc of a server, with method and args,
answered with {"results": […]}. What its two tensor-parallel workers hold, is fused and split as vLLM does it.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest
import requests
import torch
from transformers import AutoConfig

from tests.observe.served.engine import Engine, Worker

RANKS = 2
_FIRST = "model.embed_tokens.weight"


class LLM:
    """An engine in bfloat16.

    Attributes:
        behind: by how many syncs what is served is behind what was handed over.
        leave_out: parts of names of weights that never arrive.
        is_asleep: since then, it has no weights.
        broken: what asking it raises.
        asked: how often it was asked.
    """

    made: LLM

    def __init__(self, model: str = "", *, config: Any = None, **_: Any) -> None:
        LLM.made = self
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            # TRL sets them for vLLM just before, and the next training here would take itself for a distributed one.
            os.environ.pop(name, None)
        self.behind, self.leave_out, self.is_asleep = 0, (), False
        self.broken: Exception | None = None
        self.asked = 0
        self._arrived: list[dict[str, torch.Tensor]] = []
        config = config or AutoConfig.from_pretrained(model)
        self._engine = Engine(config, RANKS)
        self._workers = [Worker(self._engine.held(rank), config, rank, RANKS) for rank in range(RANKS)]
        runner = SimpleNamespace(model=SimpleNamespace(load_weights=self.load_weights))
        executor = SimpleNamespace(driver_worker=SimpleNamespace(model_runner=runner))
        self.llm_engine = SimpleNamespace(model_executor=executor)

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        for name, tensor in weights:
            if name == _FIRST:
                self._arrived.append({})
            self._arrived[-1][name] = tensor.detach().to(torch.bfloat16).clone()

    def serve(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Take weights, as after a sync of its own kind."""
        self.load_weights(weights.items())
        self.reset_prefix_cache()

    def reset_prefix_cache(self) -> None:
        """The end of a sync."""
        self._engine.load(self._arrived[max(len(self._arrived) - 1 - self.behind, 0)], self.leave_out)

    def sleep(self, level: int = 1) -> None:
        assert level == 2
        self.is_asleep = True

    def wake_up(self, tags: list[str] | None = None) -> None:
        self.is_asleep = False

    def generate(self, prompts: Any, sampling_params: Any = None, use_tqdm: bool = True) -> list[Any]:
        assert not self.is_asleep
        count = sampling_params.n
        logprobs = [{token: SimpleNamespace(rank=1, logprob=-1.0)} for token in (4, 5)]
        return [
            SimpleNamespace(
                prompt_token_ids=[3, 4],
                outputs=[SimpleNamespace(token_ids=_tokens(count * each + i), logprobs=logprobs) for i in range(count)],
            )
            for each in range(len(prompts))
        ]

    def collective_rpc(
        self,
        method: str | Callable[..., Any],
        timeout: float | None = None,
        args: tuple[Any, ...] = (),
        kwargs: Any = None,
    ) -> list[Any]:
        assert not self.is_asleep
        self.asked += 1
        if self.broken is not None:
            raise self.broken
        if isinstance(method, str):
            return [getattr(worker, method)(*args) for worker in self._workers]
        return [method(worker, *args) for worker in self._workers]


def _tokens(number: int) -> list[int]:
    """A completion, which differs from the others in its reward."""
    return [3 + 7 * number % 40, 5 + 11 * number % 60]


class SamplingParams(SimpleNamespace):
    pass


class Client:
    """trl.generation.vllm_client.VLLMClient, whose server is `LLM.made`, but for its /collective_rpc a real one."""

    base_url = ""

    def __init__(self, **_: Any) -> None:
        self.session = requests.Session()
        self.base_url = Client.base_url

    def init_communicator(self, device: Any) -> None:
        pass

    def get_server_info(self) -> dict[str, Any]:
        return {"model_config": {"logprobs_mode": "processed_logprobs"}}

    def update_named_params(self, metadata: list[Any], named_params: Iterator[tuple[str, torch.Tensor]]) -> None:
        LLM.made.load_weights(named_params)

    def reset_prefix_cache(self) -> None:
        LLM.made.reset_prefix_cache()

    def generate(self, prompts: list[list[int]], n: int = 1, **_: Any) -> dict[str, Any]:
        several = len(prompts) * n
        return {
            "prompt_ids": prompts,
            "completion_ids": [_tokens(each) for each in range(several)],
            "logprobs": [[[-1.0], [-1.0]] for _ in range(several)],
        }


@contextmanager
def served(status: int = 200, waits_for: threading.Event | None = None, engines: int = 1) -> Iterator[None]:
    """A server that answers POST /collective_rpc, the first of its engines alone, and says how many ranks all have."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.path == "/get_world_size"
            self._send(200, {"world_size": RANKS * engines})

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert self.path == "/collective_rpc"
            if waits_for is not None:
                waits_for.wait()
            results = LLM.made.collective_rpc(asked["method"], args=tuple(asked["args"]))
            self._send(status, {"results": results} if status == 200 else {"error": "no such method"})

        def _send(self, status: int, answer: dict[str, Any]) -> None:
            text = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    Client.base_url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield
    finally:
        if waits_for is not None:
            waits_for.set()
        server.shutdown()
        thread.join()
        server.server_close()


def install(patch: pytest.MonkeyPatch) -> None:
    """Let TRL find it in vLLM's place."""
    from trl.experimental.online_dpo import online_dpo_trainer
    from trl.generation import vllm_generation

    for module in (vllm_generation, online_dpo_trainer):
        patch.setattr(module, "is_vllm_available", lambda: True)
        patch.setattr(module, "LLM", LLM, raising=False)
        patch.setattr(module, "SamplingParams", SamplingParams, raising=False)
        patch.setattr(module, "VLLMClient", Client)
