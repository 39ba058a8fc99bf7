from __future__ import annotations

import pytest
import torch

from monitor.report.messages.ending import COMPLETED, Ending, failed, preempted, reason_of, stopped
from monitor.wire import monitor_pb2 as pb


class WithoutWords(Exception):  # noqa: N818
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB."),
            "OutOfMemoryError: CUDA out of memory.",
        ),
        (KeyError("loss"), "KeyError: 'loss'"),
        (SystemExit("no more data"), "SystemExit: no more data"),
        (SystemExit(3), "SystemExit: 3"),
        (SystemExit(), "SystemExit"),
        (AssertionError("\n  \n"), "AssertionError"),
        (WithoutWords(), "WithoutWords"),
        (ExceptionGroup("two", [ValueError("a"), ValueError("b")]), "ExceptionGroup: two (2 sub-exceptions)"),
        (
            ValueError(
                "Caught ValueError in worker 0.\nOriginal Traceback (most recent …):\n ...\nValueError: row 7\n"
            ),
            "ValueError: Caught ValueError in worker 0. ValueError: row 7",
        ),
    ],
)
def test_an_exception_is_one_line_of_its_own_words(error: BaseException, reason: str) -> None:
    assert reason_of(error).startswith(reason)
    assert "\n" not in reason_of(error)


def test_a_long_exception_is_shortened() -> None:
    reason = reason_of(ValueError("x" * 5000))
    assert len(reason) == 1000
    assert reason.endswith("x…")


@pytest.mark.parametrize(
    ("ending", "outcome"),
    [
        (COMPLETED, pb.Finish.OUTCOME_FINISHED),
        (stopped("EarlyStoppingCallback"), pb.Finish.OUTCOME_FINISHED),
        (preempted("SIGTERM"), pb.Finish.OUTCOME_FAILED),
        (failed("ValueError"), pb.Finish.OUTCOME_FAILED),
    ],
)
def test_a_service_of_an_earlier_version_understands_each_ending(ending: Ending, outcome: pb.Finish.Outcome) -> None:
    assert ending.message(step=3).outcome == outcome
