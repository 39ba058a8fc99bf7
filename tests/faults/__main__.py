"""The long form: each fault many times, in a table. It ends with an error where something was lost or doubled.

python -m tests.faults --times 20
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from tests.faults.broken import BROKEN


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20, help="how often each is done")
    parser.add_argument("--only", choices=BROKEN, action="append", help="one of them; may be given several times")
    arguments = parser.parse_args()
    print("| what is broken | times | observations, all there once | slowest hand-over of one | all in all |")
    print("|---|---|---|---|---|")
    for name in arguments.only or BROKEN:
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as directory:
            outcome = BROKEN[name](Path(directory), arguments.times)
        seconds = time.perf_counter() - started
        worst = f"{1000 * outcome.worst_step_seconds:.1f} ms" if outcome.worst_step_seconds else ""
        print(f"| {name} | {arguments.times} | {outcome.observations:,} | {worst} | {seconds:.0f} s |", flush=True)


if __name__ == "__main__":
    main()
