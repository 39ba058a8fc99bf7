"""Deletes and thins runs of a store that nobody serves, at a person's request."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from monitor.errors import name_some
from monitor.service.care.facts import RunFacts, read
from monitor.service.errors import StoreError, StoreInUseError, shortened
from monitor.service.live.runs import from_store
from monitor.service.quantities.run_state import RunState
from monitor.service.settings import ServiceSettings, hide_password
from monitor.service.storage.opening import file_of
from monitor.service.storage.queries.thinning import Progress
from monitor.service.storage.sqlite_file.reserve import make_room
from monitor.service.storage.store import Store


def chosen(url: str, run_ids: Sequence[str]) -> list[RunFacts]:
    """Return what the store holds of these runs.

    Raises:
        StoreError: it cannot be read, or one of them is not in it.
    """
    if (path := file_of(url)) is not None:
        make_room(path)
    held = {run.run_id: run for run in read(url).runs}
    if missing := [shortened(run_id) for run_id in run_ids if run_id not in held]:
        raise StoreError(
            f"the store {hide_password(url)} has no run {name_some(missing)}. Nothing was changed: "
            "`sparsity-monitor store info` lists the runs that it has"
        )
    return [held[run_id] for run_id in dict.fromkeys(run_ids)]


def delete_runs(url: str, run_ids: Sequence[str]) -> None:
    """Delete runs, all of which are there and none of which is under way.

    Raises:
        StoreInUseError: a service has the store.
        StoreError: one of them may be under way, or the store failed.
    """
    with _for_changes(url, run_ids) as store:
        for run_id in run_ids:
            store.delete(run_id, time.time())
            while store.delete_more(run_id).rows:
                pass
        while store.give_back():
            pass


def thin_runs(url: str, run_ids: Sequence[str], keep: int) -> list[int]:
    """Keep of each run at most about so many observations, and return how many each has left.

    Raises:
        StoreInUseError, StoreError: as `delete_runs`.
    """
    with _for_changes(url, run_ids) as store:
        for run_id in run_ids:
            plan, progress = store.thinning(run_id, store.run(run_id).observations, keep), Progress()
            while progress.after is not None:
                progress = store.thin_more(plan, progress)
        while store.give_back():
            pass
        return [store.run(run_id).observations for run_id in run_ids]


def compact(url: str) -> tuple[int, int]:
    """Write the file of a store anew without what is free in it; return how many bytes it had, and has.

    Raises:
        StoreInUseError: a service has the store.
        StoreError: it is in a database server, or it failed.
    """
    if (path := file_of(url)) is None:
        raise StoreError("the store is in PostgreSQL, which uses again what was freed; VACUUM FULL there gives it back")
    read(url)
    before = path.stat().st_size
    with _for_changes(url, []) as store:
        store.compact()
    return before, path.stat().st_size


@contextmanager
def _for_changes(url: str, run_ids: Sequence[str]) -> Iterator[Store]:
    try:
        store = Store(url)
    except StoreInUseError as error:
        raise StoreInUseError(
            f"{str(error).split('. ')[0]}. Nothing was changed: stop that service for this, or have it do so by "
            "itself, with --retain-days, --thin-after-days or --retain-gigabytes"
        ) from error
    try:
        for run_id in run_ids:
            _check_is_over(store, run_id)
        yield store
    finally:
        store.close()


def _check_is_over(store: Store, run_id: str) -> None:
    now = time.time()
    run = from_store(store.run(run_id))
    if run.state(now, ServiceSettings()) in (RunState.RUNNING, RunState.STALLED):
        raise StoreError(
            f"run {shortened(run_id)} has not ended, and was heard of {max(0, round(now - run.heard_at))} s ago: it "
            f"may be under way. Nothing was changed: wait until it has been silent for "
            f"{ServiceSettings().lost_after_seconds:g} s"
        )
