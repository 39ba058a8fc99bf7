"""What engines serve of a run's weights: compared with them by all processes together, and reported by the first."""

from __future__ import annotations

from collections.abc import Sequence

from monitor.observe.observer import UpdateObserver
from monitor.report.reporter import Reporter
from monitor.served_metrics import DIFFERING, GROUPS, STEP
from monitor.training.engine import Question
from monitor.training.served import Fingerprints, ServedCheck, ServedWeights, as_text, from_text


class ServedRun:
    """Compares what is served with the weights of a run, as long as these are observed.

    Args:
        observer: of the weights.
        reporter: of the run; None in every process but the first.
        writes_log: whether this process says what is wrong.

    Attributes:
        writes_log: the same.
        question: what an engine is to be asked with.
    """

    def __init__(self, observer: UpdateObserver, reporter: Reporter | None, *, writes_log: bool) -> None:
        self.writes_log = writes_log
        self._observer = observer
        self._reporter = reporter
        self._check = ServedCheck(writes_log=writes_log)

    @property
    def question(self) -> Question:
        return Question(self._observer.visible_dtype, self._observer.sizes)

    def texts(self, text: str) -> list[str]:
        """Return what each process gives, in their order."""
        return self._observer.ranks.texts(text)

    def fingerprint(self, step: int) -> dict[str, int]:
        """Return the fingerprints of the weights as they are now, and keep them as those of a step."""
        found = self._observer.fingerprint()
        self._check.keep(step, found, self._observer.tied)
        return found

    def compare(self, fingerprints: Fingerprints, step: int | None, *, now: int) -> ServedWeights:
        """Compare what an engine serves with the weights of a step, and report it.

        Args:
            fingerprints: of the engine's weights; what the first process gives counts.
            step: of those whose fingerprints are kept; None for the present one, whose are taken.
            now: the present step.

        Returns:
            what the first process finds, on every one.
        """
        if step is None:
            self.fingerprint(now)
        expected, ranks = now if step is None else step, self._observer.ranks
        here = ranks.all_or_none(lambda: self._check.compare(fingerprints, expected) if ranks.rank == 0 else None)
        return self._reported(from_text(ranks.from_first("" if here is None else as_text(here))), now)

    def compare_several(self, engines: Sequence[Fingerprints], step: int) -> ServedWeights:
        """Compare what several engines serve with the weights of a step whose fingerprints are kept, and report it.

        Args:
            engines: the fingerprints of each, the same in every process.

        Returns:
            that of the engine which differs most.
        """
        return self._reported(self._check.compare_several(engines, step), step)

    def _reported(self, found: ServedWeights, now: int) -> ServedWeights:
        # Where nothing could be compared, there is no number of groups that differ: 0 would mean that all is well.
        if self._reporter is not None and found.groups:
            step_served = {} if found.step is None else {STEP: found.step}
            counts = {DIFFERING: len(found.differing), GROUPS: found.groups}
            self._reporter.log(now, {**counts, **step_served})
        return found
