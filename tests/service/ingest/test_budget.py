from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from monitor.service.ingest.budget import Budget


def _with_budget(use: Callable[[Budget, list[int]], Awaitable[None]]) -> None:
    async def main() -> None:
        await use(Budget(100), [])

    asyncio.run(asyncio.wait_for(main(), timeout=60))


async def _take(budget: Budget, size: int, taken: list[int]) -> None:
    await budget.take(size)
    taken.append(size)


async def _turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_who_comes_first_is_let_in_first_however_much_it_is() -> None:
    async def use(budget: Budget, taken: list[int]) -> None:
        taking = [asyncio.create_task(_take(budget, size, taken)) for size in (60, 50, 10, 95)]
        await _turns()
        assert taken == [60]
        budget.give_back(60)
        await _turns()
        assert taken == [60, 50, 10]
        budget.give_back(50)
        await _turns()
        assert taken == [60, 50, 10]
        budget.give_back(10)
        await asyncio.gather(*taking)
        assert taken == [60, 50, 10, 95]

    _with_budget(use)


def test_what_is_more_than_all_of_it_is_let_in_alone() -> None:
    async def use(budget: Budget, taken: list[int]) -> None:
        taking = [asyncio.create_task(_take(budget, size, taken)) for size in (1, 1000, 2)]
        await _turns()
        assert taken == [1]
        budget.give_back(1)
        await _turns()
        assert taken == [1, 1000]
        budget.give_back(1000)
        await asyncio.gather(*taking)

    _with_budget(use)


def test_who_does_not_wait_any_more_holds_up_nobody() -> None:
    async def use(budget: Budget, taken: list[int]) -> None:
        await budget.take(60)
        gone, let_in, waiting = (asyncio.create_task(_take(budget, size, taken)) for size in (70, 40, 50))
        await _turns()
        assert taken == []
        gone.cancel()
        # `let_in` is, and cancelled before it knows.
        await asyncio.sleep(0)
        let_in.cancel()
        await _turns()
        assert let_in.cancelled() or taken == [40]
        if taken:
            budget.give_back(40)
        budget.give_back(60)
        await waiting
        assert taken[-1] == 50
        await budget.take(50)

    _with_budget(use)
