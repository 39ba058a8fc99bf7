"""Every trainer, in float32 master weights under bfloat16 autocast and in pure bfloat16."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.matrix.runs import (
    Run,
    assert_counts_are_those_of_the_saved_weights,
    assert_same_training,
    recording,
    train,
)
from tests.tiny import TRAINERS, common_arguments

PRECISIONS: dict[str, dict[str, Any]] = {
    "autocast": {"bf16": True},
    "pure-bfloat16": {"bf16_weights": True},
}
STEPS = 2


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(
            (trainer, precision), id=f"{trainer}-{precision}", marks=pytest.mark.xdist_group(f"{trainer}-{precision}")
        )
        for trainer in TRAINERS
        for precision in PRECISIONS
    ],
)
def pair(request: pytest.FixtureRequest, model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    """The same training twice: with the callback, and without."""
    trainer, precision = request.param

    def run(name: str, **settings: Any) -> Run:
        # Of the same name, because some trainers log it.
        directory = tmp_path_factory.mktemp(name)
        arguments = common_arguments(
            directory / "out",
            max_steps=STEPS,
            gradient_accumulation_steps=1,
            learning_rate=1e-4,
            **PRECISIONS[precision],
        )
        return train(lambda callbacks: TRAINERS[trainer](model, arguments, callbacks), directory, **settings)

    return run("monitored", callback=recording()), run("alone", callback=None)


def test_counts_are_those_of_the_saved_weights(pair: tuple[Run, Run]) -> None:
    monitored, _ = pair
    assert monitored.observation.step == STEPS
    assert_counts_are_those_of_the_saved_weights(monitored)


def test_the_training_is_the_same_bit_for_bit_without_the_callback(pair: tuple[Run, Run]) -> None:
    assert_same_training(*pair)
