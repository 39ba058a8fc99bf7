"""Metrics → what a scrape is answered with, by the encoders of prometheus-client.

Nearly all series are those of groups. Their lines are kept, and written anew only of runs that have changed since the
last scrape.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from monitor.service.live.runs import LiveRun
from monitor.service.metrics.runs import LiveMetrics, group_metrics
from monitor.service.metrics.series import GroupArray, group_arrays

Encode = Callable[[Collector], bytes]

# Within a line, quotes and line breaks of labels are escaped.
_HEADS = re.compile(rb"^((?:#.*\n)+)", re.MULTILINE)
_END = b"# EOF\n"


@dataclass(frozen=True, slots=True)
class _Groups:
    """The series of a run's groups, and their lines by format and by what stands above them."""

    version: int
    arrays: list[GroupArray]
    lines: dict[str, Mapping[bytes, bytes]] = field(default_factory=dict)


class Exposition:
    """Answers scrapes, one at a time.

    Args:
        own: what the service counts about itself.
    """

    def __init__(self, own: Collector, runs: LiveMetrics) -> None:
        self._own = own
        self._runs = runs
        self._groups: dict[str, _Groups] = {}

    def text(self, encode: Encode, form: str, *, with_runs: bool = True) -> bytes:
        """Return everything.

        Args:
            encode: as prometheus-client chooses it for a format.
            form: tells formats apart.
            with_runs: False where another service may be showing the runs.
        """
        scraped = self._runs.scraped(self._size) if with_runs else self._runs.scraped_without_runs()
        together: dict[bytes, list[bytes]] = {}
        for run in scraped.detailed:
            for head, lines in self._lines(run, encode, form).items():
                together.setdefault(head, []).append(lines)
        shown = {run.run_id for run in scraped.detailed}
        self._groups = {run_id: groups for run_id, groups in self._groups.items() if run_id in shown}
        groups = [part for head, lines in together.items() for part in (head, *lines)]
        return b"".join([*groups, encode(_Metrics([*self._own.collect(), *scraped.metrics]))])

    def _size(self, run: LiveRun) -> int:
        return sum(len(array.values) for array in self._groups_of(run).arrays)

    def _lines(self, run: LiveRun, encode: Encode, form: str) -> Mapping[bytes, bytes]:
        groups = self._groups_of(run)
        if form not in groups.lines:
            text = encode(_Metrics(group_metrics(run, groups.arrays))).removesuffix(_END)
            _, *parts = _HEADS.split(text)
            groups.lines[form] = dict(zip(parts[::2], parts[1::2], strict=True))
        return groups.lines[form]

    def _groups_of(self, run: LiveRun) -> _Groups:
        known = self._groups.get(run.run_id)
        if known is None or known.version != run.version:
            known = self._groups[run.run_id] = _Groups(run.version, group_arrays(run))
        return known


class _Metrics(Collector):
    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics
