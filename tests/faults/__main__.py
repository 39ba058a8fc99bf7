"""The long form: each fault many times, in a table. It ends with an error where something was lost or doubled.

python -m tests.faults --times 20
python -m tests.faults --messages 100000
python -m tests.faults --stopped 150
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from _pytest.outcomes import Skipped

from tests.faults.broken import BROKEN
from tests.faults.senders import stopped_training, stopped_uploader
from tests.faults.services import many_messages, stopped_service
from tests.faults.training import Outcome

_STOPPED = {
    "service stopped": stopped_service,
    "uploader stopped": stopped_uploader,
    "training stopped": stopped_training,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20, help="how often each is done")
    parser.add_argument("--only", choices=BROKEN, action="append", help="one of them; may be given several times")
    parser.add_argument("--messages", type=int, help="instead, send so many mutated messages and requests")
    parser.add_argument("--stopped", type=float, help="instead, stop for so many seconds whatever can be stopped")
    arguments = parser.parse_args()
    # What the training says of each fault is looked at, not shown.
    logging.getLogger("monitor").addHandler(logging.NullHandler())
    logging.getLogger("monitor").propagate = False
    print(
        "| what is broken | times | arrived, each once | slowest hand-over | step without, with | ratio | all in all |"
    )
    print("|---|---|---|---|---|---|---|")
    if arguments.messages:
        name = f"{arguments.messages:,} mutated messages"
        print(_row(name, 1, partial(many_messages, messages=arguments.messages)))
        return
    if arguments.stopped:
        for name, stop in _STOPPED.items():
            print(
                _row(f"{name} for {arguments.stopped:g} s", 1, partial(stop, times=1, seconds=arguments.stopped)),
                flush=True,
            )
        return
    for name in arguments.only or BROKEN:
        print(_row(name, arguments.times, partial(BROKEN[name], times=arguments.times)), flush=True)


def _row(name: str, times: int, break_it: Callable[[Path], Outcome]) -> str:
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as directory:
        try:
            outcome = break_it(Path(directory))
        except Skipped as reason:
            return f"| {name} | 0 | not done here: {reason} | | | | |"
    seconds = time.perf_counter() - started
    arrived = f"{outcome.observations:,}" + f", {outcome.left_out:,} counted as dropped" * bool(outcome.left_out)
    worst = f"{1000 * outcome.worst_hand_over:.1f} ms" if outcome.worst_hand_over else ""
    steps = ratio = ""
    if outcome.step_sound and outcome.step_broken:
        steps = f"{1000 * outcome.step_sound:.2f}, {1000 * outcome.step_broken:.2f} ms"
        ratio = f"{outcome.step_broken / outcome.step_sound:.2f}"
    return f"| {name} | {times} | {arrived} | {worst} | {steps} | {ratio} | {seconds:.0f} s |"


if __name__ == "__main__":
    main()
