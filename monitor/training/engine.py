"""The engine that a trainer of TRL generates with: where the trainer has it, and how it is asked what it serves.

As read in trl 1.16: the trainers hold a VLLMGeneration as `vllm_generation`, online DPO what is in it itself. That is
`llm`, an engine in each process, or `vllm_client`, by which the first process alone talks to a server.
"""

from __future__ import annotations

import functools
import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from monitor.errors import SparsityMonitorError
from monitor.observe.served.worker import WorkerExtension, fingerprint_of_worker

if TYPE_CHECKING:
    from transformers import Trainer, TrainingArguments

logger = logging.getLogger(__name__)

_EXTENSION = f"{WorkerExtension.__module__}.{WorkerExtension.__name__}"
# For a server that does not answer at all; what it works at takes about as long as loading the weights from memory.
_CONNECT_SECONDS, _READ_SECONDS = 5.0, 120.0


@dataclass(frozen=True)
class Question:
    """What an engine is asked with.

    Attributes:
        visible_dtype: that of the run.
        sizes: name → number of weights of each parameter of the model that trains, under all of its names.
    """

    visible_dtype: str
    sizes: Mapping[str, int]


class Engine(ABC):
    """An engine as one process of the training has it.

    Attributes:
        generating: the object that the trainer generates with, and its methods for it.
    """

    generating: tuple[Any, tuple[str, ...]]

    @abstractmethod
    def ask(self, question: Question) -> None:
        """Ask what it serves, without waiting where it is elsewhere; raises nothing."""

    @abstractmethod
    def answer(self, seconds: float) -> list[dict[str, int]]:
        """Return the fingerprints of its ranks, as far as this process reaches them.

        Raises:
            SparsityMonitorError: it cannot tell, or has not within so many seconds.
        """


class EngineHere(Engine):
    """A vllm.LLM in this process, with one of its tensor-parallel ranks: `vllm_mode="colocate"`."""

    def __init__(self, llm: Any) -> None:
        self.generating = (llm, ("generate",))
        self._found: list[dict[str, int]] | Exception = []

    def ask(self, question: Question) -> None:
        """Ask at once: where it sleeps between generations, it has no weights then."""
        llm, _ = self.generating
        try:
            self._found = llm.collective_rpc(fingerprint_of_worker, args=(question.visible_dtype, dict(question.sizes)))
        except Exception as error:  # noqa: BLE001 - raised by `answer`
            self._found = error

    def answer(self, seconds: float) -> list[dict[str, int]]:
        """Return what it answered; nothing is waited for."""
        if isinstance(self._found, Exception):
            raise _unanswered(self._found) from self._found
        return self._found


class EngineServed(Engine):
    """A server of vLLM, by the trainer's client: `vllm_mode="server"`."""

    def __init__(self, client: Any) -> None:
        self.generating = (client, ("generate", "chat"))
        self._found: list[dict[str, int]] | Exception = []
        self._thread: threading.Thread | None = None
        self._looked = False

    def ask(self, question: Question) -> None:
        """Ask in a thread, since it answers while the training goes on."""
        self._thread = threading.Thread(target=self._ask, args=(question,), daemon=True)
        self._thread.start()

    def answer(self, seconds: float) -> list[dict[str, int]]:
        """Wait for what it answers, but not for longer."""
        if self._thread is not None:
            self._thread.join(seconds)
            if self._thread.is_alive():
                # Later the next weights may be on their way to it, and it would tell of both.
                raise SparsityMonitorError(f"it did not answer until {seconds:.0f} s after the step.")
        if isinstance(self._found, Exception):
            raise _unanswered(self._found) from self._found
        return self._found

    def _ask(self, question: Question) -> None:
        client, _ = self.generating
        try:
            # Another session: the client's own sends a request that fails several times again.
            with type(client.session)() as session:
                session.headers.update(client.session.headers)
                method = WorkerExtension.sparsity_monitor_fingerprint.__name__
                body = {"method": method, "args": [question.visible_dtype, dict(question.sizes)]}
                timeout = (_CONNECT_SECONDS, _READ_SECONDS)
                response = session.post(f"{client.base_url}/collective_rpc", json=body, timeout=timeout)
            if response.status_code != 200:
                raise SparsityMonitorError(
                    f"its /collective_rpc answers {response.status_code}: {response.text[:200]}. Start it with "
                    f"VLLM_SERVER_DEV_MODE=1 and --worker-extension-cls {_EXTENSION}, where sparsity-monitor is "
                    "installed beside vLLM, too."
                )
            self._found = results = response.json()["results"]
            self._look_for_others(len(results))
        except Exception as error:  # noqa: BLE001 - raised by `answer`
            self._found = error

    def _look_for_others(self, answered: int) -> None:
        """Say once where the server has more ranks than those that answered."""
        if self._looked:
            return
        self._looked = True
        client, _ = self.generating
        try:
            with type(client.session)() as session:
                session.headers.update(client.session.headers)
                response = session.get(
                    f"{client.base_url}/get_world_size", timeout=(_CONNECT_SECONDS, _CONNECT_SECONDS)
                )
            ranks = int(response.json()["world_size"])
        except Exception:  # noqa: BLE001 - servers that do not tell are taken to have answered whole
            return
        if ranks > answered:
            logger.warning(
                "sparsity-monitor: of the %d ranks of the vLLM server, %d are asked whether they serve the weights "
                "that train. With data parallelism its first engine alone answers: nothing is known of the others.",
                ranks,
                answered,
            )


def _unanswered(error: Exception) -> SparsityMonitorError:
    if isinstance(error, SparsityMonitorError):
        return error
    return SparsityMonitorError(f"asking it fails with {type(error).__name__}: {error}")


def engine_of(trainer: Trainer) -> Engine | None:
    """Return the trainer's engine as this process has it; None where it has none, or none that can be asked."""
    holder = getattr(trainer, "vllm_generation", trainer)
    if callable(getattr(llm := getattr(holder, "llm", None), "collective_rpc", None)):
        return EngineHere(llm)
    client = getattr(holder, "vllm_client", None)
    can_be_asked = all(hasattr(client, name) for name in ("session", "base_url", "generate"))
    return EngineServed(client) if can_be_asked else None


def processes_of_an_engine(args: TrainingArguments) -> int | None:
    """Return how many processes have one rank each of an engine; None where the first one reaches all of it."""
    if getattr(args, "vllm_mode", None) != "colocate":
        return None
    return int(getattr(args, "vllm_tensor_parallel_size", 1))


class Listening:
    """Calls a function once, after an object has generated the next time, and leaves the object as it was.

    Args:
        owner: the object, of which only this instance's methods are replaced.
        names: the methods.
        then: the function, which raises nothing.
    """

    def __init__(self, owner: Any, names: tuple[str, ...], then: Callable[[], None]) -> None:
        self._owner = owner
        self._then = then
        self._before = {name: vars(owner).get(name) for name in names if hasattr(owner, name)}
        for name in self._before:
            setattr(owner, name, self._heard(getattr(owner, name)))

    def stop(self) -> None:
        """Listen no more."""
        for name, before in self._before.items():
            if before is not None:
                setattr(self._owner, name, before)
            else:
                delattr(self._owner, name)
        self._before = {}

    def _heard(self, generate: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(generate)
        def generating(*args: Any, **kwargs: Any) -> Any:
            generated = generate(*args, **kwargs)
            if self._before:
                self.stop()
                self._then()
            return generated

        return generating
