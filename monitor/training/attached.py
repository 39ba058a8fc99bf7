"""The `train` of a trainer that a callback is attached to: a training that raises is told to the callback at once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import MethodType
from typing import Any

from transformers import Trainer, TrainerCallback

OnFailure = Callable[[BaseException], None]


class WatchedTraining:
    """Trains as before, and tells a callback of what is raised, which goes on unchanged.

    It is bound to the trainer as a method is, so that copies of the trainer train themselves.

    Args:
        train: the method, as a function of the trainer.
        callback: whom to tell, as long as it is one of the trainer's callbacks.
        told: name of the callback's method that takes the exception.
    """

    def __init__(self, train: Callable[..., Any], callback: TrainerCallback, told: str) -> None:
        self._train = train
        self._callback = callback
        self._told = told
        functools.update_wrapper(self, train, updated=())

    def __call__(self, trainer: Trainer, *args: Any, **kwargs: Any) -> Any:
        """Train."""
        try:
            return self._train(trainer, *args, **kwargs)
        except BaseException as error:
            if any(callback is self._callback for callback in trainer.callback_handler.callbacks):
                getattr(self._callback, self._told)(error)
            raise

    def watches_for(self, callback: TrainerCallback) -> bool:
        """Return whether the callback is told already."""
        return self._callback is callback


def tell_of_failure(trainer: Trainer, callback: TrainerCallback, told: str) -> None:
    """Let a callback know when `trainer.train` raises, whatever it is: also a KeyboardInterrupt, or `sys.exit`."""
    train = trainer.train
    is_method = isinstance(train, MethodType) and train.__self__ is trainer
    function = train.__func__ if is_method else _ignoring_trainer(train)
    if not (isinstance(function, WatchedTraining) and function.watches_for(callback)):
        trainer.train = MethodType(WatchedTraining(function, callback, told), trainer)


def _ignoring_trainer(train: Callable[..., Any]) -> Callable[..., Any]:
    """Return what somebody has put in place of the method as if it were one."""

    @functools.wraps(train)
    def method(_trainer: Trainer, *args: Any, **kwargs: Any) -> Any:
        return train(*args, **kwargs)

    return method
