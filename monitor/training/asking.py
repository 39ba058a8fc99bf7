"""When the engine of a trainer is asked what it serves, and what becomes of its answer.

The engine is asked right after it generated: it then serves what the samples are from, and is awake. What it answers
is compared at the end of the step with the weights of its beginning, before the next ones are handed over.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING

from monitor.errors import SparsityMonitorError
from monitor.training.engine import Engine, Listening, engine_of, processes_of_an_engine
from monitor.training.served_run import ServedRun

if TYPE_CHECKING:
    from transformers import Trainer, TrainingArguments

logger = logging.getLogger(__name__)

SERVED_EVERY = 10
"""Steps after which an engine is asked again, unless something is wrong: each time, all weights are read twice."""

# What the step may take longer because of an engine that is slow to answer; it is not asked again then.
_PATIENCE_SECONDS = 10.0
# Steps in which it was to be asked and nothing was generated, after which that is said.
_IN_VAIN = 3


class AskedEngine:
    """Asks a trainer's engine in the training that begins. Every process has one, and calls the same methods.

    Args:
        engine: as this process has it.
        every: steps between two questions; 0 never asks.
        processes: that have one rank each of an engine; None where the first one reaches all of it.
        strict: whether errors are raised.
    """

    def __init__(
        self, engine: Engine | None = None, *, every: int = 0, processes: int | None = None, strict: bool = False
    ) -> None:
        self._engine = engine
        self._every = every
        self._processes = processes
        self._strict = strict
        # At first, and after the first sync, then seldom.
        self._due = 0
        self._times = self._in_vain = 0
        self._step: int | None = None
        self._listening: Listening | None = None
        self._was_asked = False
        self._problem = ""

    @classmethod
    def of(cls, trainer: Trainer | None, args: TrainingArguments, every: int, *, strict: bool) -> AskedEngine:
        """Return that of a training that begins."""
        if every and args.process_index == 0 and _generates_meanwhile(args):
            logger.warning(
                "sparsity-monitor: whether vLLM serves the weights that train is not looked at, because an "
                "asynchronous trainer generates all the time and with weights that are some steps old on purpose: no "
                "step is known whose weights vLLM is to serve. To see it, ask vLLM after a weight sync and give the "
                "callback's served() what it answers, with that step."
            )
        if not getattr(args, "use_vllm", False) or not every:
            return cls()
        if trainer is None:
            if args.process_index == 0:
                logger.warning(
                    "sparsity-monitor: whether vLLM serves the weights that train is not looked at, because the "
                    "callback does not know the trainer. To see it, use SparsityCallback(…).attach(trainer), or call "
                    "its served()."
                )
            return cls()
        return cls(engine_of(trainer), every=every, processes=processes_of_an_engine(args), strict=strict)

    def begin_step(self, step: int, run: ServedRun | None) -> None:
        """Take the fingerprints of the weights that a step begins with, if the engine is to be asked in it.

        Args:
            step: optimizer steps made so far.
            run: None where nothing is observed any more.
        """
        self._stop_listening()
        if run is not None and self._every and step >= self._due:
            with self._giving_up_on_errors(run):
                self._prepare(step, run)

    def end_step(self, run: ServedRun | None) -> None:
        """Compare what the engine answered, in every process."""
        step, self._step = self._step, None
        self._stop_listening()
        if run is not None and step is not None:
            with self._giving_up_on_errors(run):
                self._compare(step, run)

    def stop(self) -> None:
        """Leave the engine as it was."""
        self._every, self._engine = 0, None
        self._stop_listening()

    def _stop_listening(self) -> None:
        if self._listening is not None:
            self._listening.stop()
            self._listening = None

    @contextmanager
    def _giving_up_on_errors(self, run: ServedRun) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            # On every process alike: none goes on to wait for the others.
            self.stop()
            if self._strict:
                raise
            if not isinstance(error, SparsityMonitorError):
                logger.exception("an error in sparsity-monitor; training goes on")
            elif run.writes_log:
                logger.warning(
                    "sparsity-monitor: the engine is not asked any more whether it serves the weights that train: %s",
                    error,
                )

    def _prepare(self, step: int, run: ServedRun) -> None:
        question = run.question
        run.fingerprint(step)
        self._step, self._was_asked = step, False
        if (engine := self._engine) is None:
            return

        def ask() -> None:
            self._was_asked = True
            engine.ask(question)

        try:
            self._listening = Listening(*engine.generating, ask)
        except Exception as error:  # noqa: BLE001 - told to the other processes, which would wait for this one
            self._problem = f"its generation cannot be followed: {error}"

    def _compare(self, step: int, run: ServedRun) -> None:
        answers = [json.loads(text) for text in run.texts(self._answer())]
        if problems := [each for each in answers if isinstance(each, str)]:
            raise SparsityMonitorError(problems[0])
        self._times += 1
        self._due = step + (1 if self._times == 1 else self._every)
        size = self._processes or len(answers)
        engines = [list(chain(*answers[first : first + size])) for first in range(0, len(answers), size)]
        if not any(engines):
            self._look_at_silence()
            return
        self._in_vain = 0
        found = run.compare_several([each for each in engines if each], step)
        if not found.groups:
            # That is said, and will not change.
            self.stop()
        elif not found.is_expected:
            # Until it is well again; and the next time it is known what the step before was.
            self._due = step + 1

    def _look_at_silence(self) -> None:
        self._in_vain += 1
        if self._in_vain == _IN_VAIN:
            raise SparsityMonitorError(
                f"in {_IN_VAIN} steps in which it was to be asked, the trainer did not generate with the vLLM that it "
                "holds as `vllm_generation`, `llm` or `vllm_client`. Call the callback's served() yourself."
            )

    def _answer(self) -> str:
        """Return the fingerprints, none if it was not asked, or what is wrong, as JSON; raises nothing."""
        if self._problem or self._engine is None or not self._was_asked:
            return json.dumps(self._problem or [])
        try:
            return json.dumps(self._engine.answer(_PATIENCE_SECONDS))
        except Exception as error:  # noqa: BLE001 - raised on all processes
            return json.dumps(f"{error}" or type(error).__name__)


def _generates_meanwhile(args: TrainingArguments) -> bool:
    """Return whether these are the arguments of TRL's asynchronous trainers, which have a server and no choice."""
    return hasattr(args, "vllm_server_base_url") and not hasattr(args, "use_vllm")
