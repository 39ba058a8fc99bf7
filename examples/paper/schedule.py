"""Run experiments side by side, each in a process of its own, and leaves out those that have finished before."""

import multiprocessing
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess

from paper.experiments import Experiment, Scale
from paper.place import LOG_FILE, Place
from paper.results import read_result, settings_of


class ScheduleError(Exception):
    """The experiments cannot be run as asked; the message says why and what to do."""


@dataclass(frozen=True)
class Ended:
    """An experiment whose process has ended, and why it has no result; empty if it has one."""

    experiment: Experiment
    failure: str


class Schedule:
    """Experiments that are to be run at a place, at one scale."""

    def __init__(self, experiments: Sequence[Experiment], scale: Scale, place: Place) -> None:
        """See what is there already.

        Raises:
            ScheduleError: a directory has the result of another experiment.
        """
        self._scale, self._place = scale, place
        results = {each.name: read_result(place.directory(each.name)) for each in experiments}
        for each in experiments:
            found = results[each.name]
            if found is not None and found.settings != settings_of(each, scale):
                raise ScheduleError(
                    f"{place.directory(each.name)} has the result of other settings than {each.name} has now. Remove "
                    "it to run the experiment again, or give another directory with --output."
                )
        self.kept = [each for each in experiments if results[each.name] is not None]
        self.waiting = [each for each in experiments if results[each.name] is None]
        # Loaded once: each process is a copy of one that has imported everything.
        self._processes = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload(["paper.training"])

    def prepare(self) -> float:
        """Make the base model, unless it is there, and return its share of right answers.

        Raises:
            ScheduleError: it cannot be made, or is not the one of the results that are there.
        """
        answered = self._place.right_answers_of_base(self._scale)
        if answered is not None:
            return answered
        if self.kept:
            raise ScheduleError(
                f"{self._place.base} is not the model that {self.kept[0].name} was trained from. Give another "
                "directory with --output."
            )
        shutil.rmtree(self._place.base, ignore_errors=True)
        process = self._start(_make_base, self._scale, self._place)
        process.join()
        answered = self._place.right_answers_of_base(self._scale)
        if answered is None:
            raise ScheduleError(
                f"the base model could not be made (status {process.exitcode}); see {self._place.base / LOG_FILE}"
            )
        return answered

    def run(self, at_once: int) -> Iterator[Ended]:
        """Run what is waiting, so many at a time, and yield each that has ended. A crash is told, and the rest goes "
        "on."""
        running: dict[int, tuple[Experiment, BaseProcess]] = {}
        failed: set[str] = set()
        while self.waiting or running:
            for experiment in [each for each in self.waiting if _needed(each) in failed]:
                self.waiting.remove(experiment)
                failed.add(experiment.name)
                yield Ended(experiment, f"it needs {_needed(experiment)}, which failed")
            unfinished = {each.name for each in self.waiting} | {each.name for each, _ in running.values()}
            ready = [each for each in self.waiting if _needed(each) not in unfinished]
            for experiment in ready[: at_once - len(running)]:
                self.waiting.remove(experiment)
                process = self._begin(experiment)
                running[process.sentinel] = experiment, process
            for sentinel in wait(list(running)):
                assert isinstance(sentinel, int)
                experiment, process = running.pop(sentinel)
                process.join()
                ended = Ended(experiment, self._failure(experiment, process))
                if ended.failure:
                    failed.add(experiment.name)
                yield ended

    def _begin(self, experiment: Experiment) -> BaseProcess:
        directory = self._place.directory(experiment.name)
        # What a command that was stopped has left.
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        return self._start(_train, experiment, self._scale, self._place)

    def _start(self, work: Callable[..., None], *arguments: object) -> BaseProcess:
        # A daemon: when this process ends, it is not waited for but ended.
        process = self._processes.Process(target=work, args=arguments, daemon=True)
        process.start()
        return process

    def _failure(self, experiment: Experiment, process: BaseProcess) -> str:
        directory = self._place.directory(experiment.name)
        if read_result(directory) is not None:
            return ""
        return f"ended with status {process.exitcode}; see {directory / LOG_FILE}"


# Imported there and not here: this process only waits.


def _train(experiment: Experiment, scale: Scale, place: Place) -> None:
    from paper.training import run

    run(experiment, scale, place)


def _make_base(scale: Scale, place: Place) -> None:
    from paper.training import make_base

    make_base(scale, place)


def _needed(experiment: Experiment) -> str:
    """Name of the experiment whose mask this one needs; empty if none."""
    return experiment.only.of if experiment.only else ""
