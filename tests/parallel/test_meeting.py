"""Who must observe on several processes, what is said where some do not, and that a part of the world can train."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from monitor.errors import ConfigurationError, SparsityMonitorError
from monitor.observe import meeting, ranks
from monitor.observe.observer import UpdateObserver
from monitor.report.messages.registration import registration_message
from monitor.report.reporter import Reporter
from tests.parallel.models import make_model, train_step
from tests.parallel.processes import run_together
from tests.parallel.test_placement import observe_alone, reference_mask, settings

# Processes of their own, which one server forks.
pytestmark = pytest.mark.xdist_group("parallel")


@contextmanager
def log() -> Iterator[list[str]]:
    """The warnings of the monitor on this process."""
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())
    logging.getLogger("monitor").addHandler(handler)
    yield messages
    logging.getLogger("monitor").removeHandler(handler)


def observe_on_some(members: list[int]) -> tuple[str, list[str]]:
    """Make an observer on some processes, while the others wait until that is over."""
    meeting._PATIENCE, meeting._TIMEOUT = timedelta(seconds=0.2), timedelta(seconds=1)
    error = ""
    with log() as messages:
        if dist.get_rank() in members:
            try:
                UpdateObserver(make_model())
            except ConfigurationError as failure:
                error = str(failure)
        dist.barrier()
        if dist.get_rank() not in members:
            # Too late: nobody waits for them any more, and they wait for nobody.
            try:
                UpdateObserver(make_model())
            except ConfigurationError as failure:
                error = str(failure)
    return error, messages


def test_processes_that_do_not_observe_are_named_in_seconds() -> None:
    first, second, third = run_together(observe_on_some, 3, [0, 2])
    for error, messages in (first, third):
        assert "ranks [0, 1, 2], must all begin to observe at the same point, and ranks [1] have not come" in error
        assert "UpdateObserver(model, process_group=group)" in error
        (message,) = messages
        assert "waits for ranks [1]" in message
    error, messages = second
    assert "came when the others had given up waiting" in error
    assert not messages


def observe_in_a_group(members: list[int]) -> object:
    group = dist.new_group(members)
    if dist.get_rank() not in members:
        try:
            UpdateObserver(make_model(), process_group=group)
        except ConfigurationError as error:
            return str(error)
    model = make_model()
    observer = UpdateObserver(model, process_group=group, **settings(reference_mask()))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    weights, observations = [{name: p.detach().clone() for name, p in model.named_parameters()}], []
    for step in (1, 2):
        train_step(model, optimizer, step)
        observations.append(observer.observe(step))
        weights.append({name: p.detach().clone() for name, p in model.named_parameters()})
    return {
        "observations": observations,
        "weights": weights,
        "is_first": observer.is_first,
        "mask": observer.update_mask().count(),
        "bytes": observer.monitor_bytes,
        "fingerprint": observer.base_fingerprint,
    }


def test_a_part_of_the_world_trains_and_observes() -> None:
    """As actors beside rollout workers: the first process generates, and the other two train."""
    outside, first, second = run_together(observe_in_a_group, 3, [1, 2])
    assert outside == "rank 0 is not in the process_group that is given. Make the observer where it is."
    alone, expected = observe_alone(first["weights"])
    assert (first["is_first"], second["is_first"]) == (True, False)
    for result in (first, second):
        assert result["fingerprint"] == alone.base_fingerprint
        for observed, one in zip(result["observations"], expected, strict=True):
            assert observed.changed.tolist() == one.changed.tolist()
            assert observed.touched.tolist() == one.touched.tolist()
    assert first["mask"] == expected[-1].changed.sum() > 0
    assert max(first["bytes"], second["bytes"]) < 0.6 * alone.monitor_bytes


def observe_in_a_group_of_one() -> list[int]:
    groups = [dist.new_group([rank]) for rank in range(2)]
    observer = UpdateObserver(make_model(), process_group=groups[dist.get_rank()])
    # The other process does not take part.
    return observer.observe(1 + dist.get_rank()).changed.tolist() if dist.get_rank() else []


def test_a_process_that_trains_alone_waits_for_nobody() -> None:
    results = run_together(observe_in_a_group_of_one, 2)
    assert results[0] == []
    assert sum(results[1]) == 0


def observe_at_another_step_on_one_process() -> str:
    observer = UpdateObserver(make_model())
    observer.observe(3)
    try:
        observer.observe(4 + dist.get_rank())
    except SparsityMonitorError as error:
        return str(error)
    return "no error"


def test_processes_at_different_steps_are_told_so() -> None:
    message = "the processes observe at different steps: 4 on rank 0, 5 on rank 1. Expected the same one on all."
    assert run_together(observe_at_another_step_on_one_process, 2) == [message] * 2


def observe_later_on_one_process(directory: Path) -> tuple[int, list[str]]:
    store = dist.FileStore(str(directory / "store"), 2)
    observer = UpdateObserver(make_model())
    if dist.get_rank() == 0:
        # The other one may have to wait as long on a busy machine.
        ranks._PATIENCE = timedelta(seconds=0.2)

    class SaysSo(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            store.set("waits", "")

    logging.getLogger("monitor").addHandler(SaysSo())
    with log() as messages:
        if dist.get_rank() == 1:
            store.wait(["waits"], timedelta(seconds=30))
        changed = int(observer.observe(1).changed.sum())
    return changed, messages


def test_a_process_that_waits_for_counts_says_so_and_goes_on(tmp_path: Path) -> None:
    (changed, messages), second = run_together(observe_later_on_one_process, 2, tmp_path)
    assert changed == 0
    assert second == (0, [])
    (message,) = messages
    assert "rank 0 has waited 0 s for the other processes of [0, 1]" in message


def report_on_every_process(directory: Path) -> str:
    observer = UpdateObserver(make_model())
    try:
        registration = registration_message(observer, run_id="a", name="a")
    except ConfigurationError as error:
        return str(error)
    Reporter(registration, directory).close()
    return "reported"


def test_only_the_first_process_reports(tmp_path: Path) -> None:
    first, second = run_together(report_on_every_process, 2, tmp_path)
    assert first == "reported"
    assert second.startswith("this is process 1 of the 2 that train together, and the first one reports for all")
    assert "if observer.is_first" in second
