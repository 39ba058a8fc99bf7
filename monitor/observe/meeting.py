"""Meeting: processes that are about to run collectives find out first, through the store, whether all have come."""

from __future__ import annotations

import logging
from collections import Counter
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from monitor.errors import ConfigurationError

logger = logging.getLogger(__name__)

# A process may come late because it alone starts a tracker or downloads a model.
_PATIENCE = timedelta(seconds=20)
_TIMEOUT = timedelta(seconds=120)

_meetings: Counter[tuple[int, ...]] = Counter()


def meet(members: list[int], timeout: timedelta | None = None) -> None:
    """Wait until all members have come, for two minutes or the timeout, if that is shorter.

    Args:
        members: ranks in the default process group; this process is one of them.
        timeout: what the training itself would wait for a collective.

    Raises:
        ConfigurationError: some have not come. Those that come later get it, too.
    """
    # Not above: some builds of torch have no distributed package.
    from torch.distributed.distributed_c10d import _get_default_store

    store = _get_default_store()
    _meetings[tuple(members)] += 1
    name = f"sparsity-monitor/{members}/{_meetings[tuple(members)]}"
    keys = {rank: f"{name}/{rank}" for rank in members}
    store.set(keys[dist.get_rank()], "here")
    limit = min(_TIMEOUT, timeout or _TIMEOUT)
    came = _wait(store, list(keys.values()), min(_PATIENCE, limit))
    if not came and limit > _PATIENCE:
        logger.warning(
            "sparsity-monitor: rank %d waits for ranks %s, which observe the training, too. Every process that trains "
            "must make the UpdateObserver, or have the SparsityCallback; where only some train, give their "
            "process_group.",
            dist.get_rank(),
            _missing(store, keys),
        )
        came = _wait(store, list(keys.values()), limit - _PATIENCE)
    missing = [] if came else _missing(store, keys)
    # Said once and for all: a process that comes just now must not go on where another has given up.
    outcome = store.compare_set(f"{name}/outcome", "", "missing" if missing else "met").decode()
    if outcome == "missing":
        raise ConfigurationError(_explain(members, missing))


def _wait(store: Any, keys: list[str], limit: timedelta) -> bool:
    try:
        store.wait(keys, limit)
    except RuntimeError:
        return bool(store.check(keys))
    return True


def _missing(store: Any, keys: dict[int, str]) -> list[int]:
    return [rank for rank, key in keys.items() if not store.check([key])]


def _explain(members: list[int], missing: list[int]) -> str:
    what = f"ranks {missing} have not come" if missing else "this process came when the others had given up waiting"
    return (
        f"the processes that train together, ranks {members}, must all begin to observe at the same point, and {what}. "
        "Make the UpdateObserver on every one of them, as it sums counts over them, and give the SparsityCallback to "
        "every process, not to the first only; it is the first that reports. Where only some of the processes train, "
        "give their group on these: UpdateObserver(model, process_group=group)."
    )
