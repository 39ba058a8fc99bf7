"""A training that forks in all the ways there are: `python -m tests.report.spool.forking DIRECTORY TARGET`."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

from monitor.report.reporter import Reporter
from tests.service.messages import registration

SECONDS = 180
ENDS: tuple[Callable[[], object], ...] = (
    sys.exit,
    lambda: os._exit(0),
    lambda: os.kill(os.getpid(), signal.SIGKILL),
    lambda: os.kill(os.getpid(), signal.SIGTERM),
)


class Samples:
    """What workers of a data loader read. They inherit a reporter, as from a dataset or a callback that has one."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter: Reporter | None = reporter

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        if self._reporter is not None:
            use(self._reporter)
        self._reporter = None
        gc.collect()
        return index


def use(reporter: Reporter) -> None:
    """Do in a child all that a training does."""
    reporter.log(99, {"of a child": 1.0})
    reporter.finish(99)
    reporter.fail("of a child")
    assert not reporter.close()


def report_of_its_own(directory: Path, target: str) -> None:
    """A run of the child's, from its start to its delivered end."""
    own = Reporter(registration(directory.name), directory, target)
    own.log(1, {"loss": 1.0})
    own.finish(1)
    assert own.close(timeout=SECONDS)


def main(place: Path, target: str) -> None:
    from torch.utils.data import DataLoader

    reporter = Reporter(registration("forking"), place / "forking", target)
    reporter.wait_until_registered(SECONDS)
    uploader = reporter.uploader_pid
    loader = DataLoader(Samples(reporter), num_workers=2, multiprocessing_context="fork")  # type: ignore[arg-type]
    assert sorted(int(sample) for sample in loader) == [0, 1, 2, 3]
    for step, end in enumerate(ENDS, start=1):
        reporter.log(step, {"loss": 1.0})
        if (child := os.fork()) == 0:
            use(reporter)
            gc.collect()
            end()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) in (0, -signal.SIGKILL, -signal.SIGTERM)
    for method in ("fork", "forkserver"):
        process = multiprocessing.get_context(method).Process(target=report_of_its_own, args=(place / method, target))
        process.start()
        process.join()
        assert process.exitcode == 0, method
    reporter.finish(len(ENDS))
    assert reporter.close(timeout=SECONDS)
    assert reporter.uploader_pid == uploader


if __name__ == "__main__":
    # The uploader is started beside this process's threads, and a warning of that is Python's own business.
    warnings.simplefilter("ignore", DeprecationWarning)
    main(Path(sys.argv[1]), sys.argv[2])
