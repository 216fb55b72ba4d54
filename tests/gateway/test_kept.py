"""One question for all who ask at once; its answer is kept for a while, its error is not."""

from __future__ import annotations

import asyncio

import pytest

from gsv_client.gateway.cached import CachedValue


def test_many_share_one_question() -> None:
    asked = 0

    async def ask() -> int:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0.01)
        return asked

    async def work() -> None:
        kept = CachedValue(0.05, ask)
        assert await asyncio.gather(*(kept.get() for _ in range(10))) == [1] * 10
        assert await kept.get() == 1
        await asyncio.sleep(0.06)
        assert await kept.get() == 2
        kept.forget()
        assert await kept.get() == 3

    asyncio.run(work())


def test_an_error_goes_to_all_and_is_not_kept() -> None:
    answers: list[int | Exception] = [OSError("down"), 7]

    async def ask() -> int:
        await asyncio.sleep(0)
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def work() -> None:
        kept = CachedValue(10, ask)
        found = await asyncio.gather(kept.get(), kept.get(), return_exceptions=True)
        assert [str(one) for one in found] == ["down", "down"]
        assert await kept.get() == 7

    asyncio.run(work())


def test_who_leaves_takes_nobody_along() -> None:
    async def ask() -> int:
        await asyncio.sleep(0.05)
        return 1

    async def work() -> None:
        kept = CachedValue(10, ask)
        leaving, staying = asyncio.create_task(kept.get()), asyncio.create_task(kept.get())
        await asyncio.sleep(0.01)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert await staying == 1

    asyncio.run(work())
