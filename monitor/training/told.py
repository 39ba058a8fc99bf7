"""What a run prints to standard error when it starts and when it has ended, as trackers do."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Any

from monitor.observe.base.mode import BaseMode
from monitor.observe.observation import Observation
from monitor.observe.observer import UpdateObserver
from monitor.percent import percent
from monitor.report.log.shell import push_command
from monitor.report.reporter import Reporter
from monitor.terminal import printable
from monitor.training.settings import RunSettings

logger = logging.getLogger(__name__)

_PREFIX = "sparsity-monitor"
_KEPT = {
    BaseMode.DEVICE: "a copy beside the weights",
    BaseMode.HOST: "a copy in host memory",
    BaseMode.SHARED: "in memory anyway, not copied",
    BaseMode.LOW_BYTE: "kept as one byte per weight",
}
_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def tell(lines: Sequence[str], *, quiet: bool) -> None:
    """Print to standard error, above the progress bars; or log at level INFO if `quiet`. Never raises."""
    for line in map(printable, lines):
        if quiet:
            logger.info("%s: %s", _PREFIX, line)
        else:
            _print(f"{_PREFIX}: {line}")


def _print(line: str) -> None:
    stream = sys.stderr
    if stream is None:
        # As under pythonw; `print` would take standard output instead.
        return
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        shown = line.encode(encoding, "backslashreplace").decode(encoding)
        # Not imported: where nobody has, there are no bars.
        tqdm: Any = getattr(sys.modules.get("tqdm"), "tqdm", None)
        # Bars are on the screen until they are closed, and are drawn anew below the line.
        if getattr(tqdm, "_instances", None):
            tqdm.write(shown, file=stream)
        else:
            print(shown, file=stream)
    except Exception:
        # It may be closed, or an object of a notebook's or a launcher's own.
        logger.debug("could not print: %s", line, exc_info=True)


def start_lines(
    settings: RunSettings, observer: UpdateObserver, reporter: Reporter, name: str, base_source: str
) -> list[str]:
    """Return which run starts, where to look, what is measured, and what that takes."""
    trained = [group.trained_weights for group in observer.groups if group.trained_weights]
    each = "every step" if settings.every == 1 else f"every {settings.every} steps"
    attempt = f", attempt {reporter.key.attempt}" if reporter.key.attempt > 1 else ""
    of_each = " in each process" if observer.ranks.world > 1 else ""
    return [
        f"run {_called(name, reporter)}{attempt}, {_where_to_look(settings.target, reporter)}",
        f"{sum(trained):,} trained weights in {len(trained):,} groups, {_measured_as(settings)}, {each}",
        f"base {base_source}, {_KEPT[observer.base_mode]}; {size(observer.monitor_bytes)} held{of_each}",
    ]


def end_lines(
    settings: RunSettings, reporter: Reporter, observations: int, last: Observation | None, *, delivered: bool | None
) -> list[str]:
    """Return what was observed of a run that has ended, and where it is now; `delivered` is None while on its way."""
    run_id = reporter.key.run_id
    if last is None:
        lines = [f"run {run_id} ended before anything was observed"]
    else:
        times = "1 observation" if observations == 1 else f"{observations:,} observations"
        lines = [
            f"run {run_id} ended after {times}, the last at step {last.step}",
            f"cumulative sparsity {percent(last.cumulative_sparsity)}, step sparsity {percent(last.step_sparsity)} "
            f"({_measured_as(settings)})",
        ]
    if settings.target is None:
        return [*lines, f"kept; deliver with: {_push(reporter)}"]
    if delivered is None:
        return [*lines, f"what is left is on its way to {settings.target}"]
    return [*lines, f"delivered to {settings.target}"] if delivered else lines


def _called(name: str, reporter: Reporter) -> str:
    return reporter.key.run_id if name == reporter.key.run_id else f"{name!r} ({reporter.key.run_id})"


def _where_to_look(target: str | None, reporter: Reporter) -> str:
    return f"recorded in {reporter.directory}" if target is None else f"reporting to {target}"


def _push(reporter: Reporter) -> str:
    return push_command(reporter.directory, None)


def _measured_as(settings: RunSettings) -> str:
    return f"{settings.criterion} in {settings.visible_dtype}"


def size(count: int) -> str:
    """Return a number of bytes for people.

    >>> size(1_610_000_000), size(999)
    ('1.6 GB', '999 bytes')
    """
    for unit, name in _UNITS:
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} bytes"
