"""The uploader's process: it outlives the training, so that what was observed arrives even when that one is killed.

Started as report/processes/interpreter.py says, by the name of this folder.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from monitor.errors import DamagedSpoolError
from monitor.report.log.uploader import UPLOADER_LOG, keep_short
from monitor.report.processes.exit_status import EXIT_DAMAGED, EXIT_NOT_DELIVERED
from monitor.report.processes.signals import from_arguments
from monitor.report.spool.attempt import AttemptKey
from monitor.report.uploader.tries import Uploader

logger = logging.getLogger(__name__)

# How often it looks how long its log is.
_LOG_SECONDS = 5.0
# Slurm, Kubernetes and torchrun kill what is left 30 seconds after it.
_AFTER_SIGTERM_SECONDS = 20.0


async def _run(directory: Path, target: str, parent: int, last: AttemptKey, signals: Mapping[str, int]) -> list[str]:
    uploader = Uploader(directory, target, parent=parent, last=last, signals=signals)
    uploader.wake_on(sys.stdin.fileno())
    _outlive_sigterm()
    keeping = asyncio.create_task(_keep_log_short(directory / UPLOADER_LOG))
    try:
        return await uploader.run()
    finally:
        keeping.cancel()


async def _keep_log_short(log: Path) -> None:
    while True:
        keep_short(log)
        await asyncio.sleep(_LOG_SECONDS)


def _outlive_sigterm() -> None:
    """Go on for some seconds after a SIGTERM: schedulers send it to all processes of a job, to tell its end."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, loop.call_later, _AFTER_SIGTERM_SECONDS, sys.exit, EXIT_NOT_DELIVERED)


def main() -> int:
    """Deliver what the training process at the other end of standard input observes."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("target")
    parser.add_argument("parent", type=int, help="process id of the training")
    parser.add_argument("run_id", help="of the training's attempt")
    parser.add_argument("attempt", type=int)
    parser.add_argument("--signals", nargs="*", default=[], help="see monitor/report/processes/signals.py")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    last = AttemptKey(arguments.run_id, arguments.attempt)
    signals = from_arguments(arguments.signals)
    try:
        problems = asyncio.run(_run(arguments.directory, arguments.target, arguments.parent, last, signals))
    except DamagedSpoolError as error:
        logger.error("%s", error)  # noqa: TRY400 (there is no more to say than it does)
        return EXIT_DAMAGED
    for problem in problems:
        logger.error("not delivered, kept in %s: %s", arguments.directory, problem)
    return EXIT_NOT_DELIVERED if problems else 0


if __name__ == "__main__":
    sys.exit(main())
