from __future__ import annotations

import asyncio

from monitor.service.background import in_background


def test_it_goes_on_while_the_context_is_open_and_has_ended_after_it() -> None:
    async def main() -> list[str]:
        done: list[str] = []
        begun = asyncio.Event()

        async def work() -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                # What takes a moment at the end is waited for.
                await asyncio.sleep(0)
                done.append("ended")

        async with in_background(work):
            await begun.wait()
            done.append("inside")
        return done

    assert asyncio.run(main()) == ["inside", "ended"]


def test_what_failed_by_itself_does_not_hide_how_the_context_ends() -> None:
    async def main() -> None:
        failed = asyncio.Event()

        async def work() -> None:
            failed.set()
            raise RuntimeError("broken")

        async with in_background(work):
            await failed.wait()

    asyncio.run(main())
