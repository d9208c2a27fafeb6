"""The event loop's time: what is counted of it, and what that costs who used it."""

import asyncio
import time

import pytest

from mpnet.control.budget import SAVED_SECONDS, SHARE, Budget, metered


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_was_saved_may_be_used_at_once_and_the_rest_is_waited_for() -> None:
    clock = Clock()
    budget = Budget(clock)
    clock.now += 1000
    budget.spend(SAVED_SECONDS)
    assert budget.debt == 0
    budget.spend(0.5)
    assert budget.debt == pytest.approx(0.5 / SHARE)
    clock.now += budget.debt
    assert budget.debt == pytest.approx(0)
    clock.now += 1000
    budget.spend(SAVED_SECONDS + 0.001)
    assert budget.debt > 0


def test_steps_are_counted_and_waits_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    spent: list[float] = []

    async def work() -> str:
        nonlocal now
        for _ in range(3):
            now += 1
            await asyncio.sleep(0)
        now += 0.5
        return "done"

    async def passes() -> None:
        nonlocal now
        while True:
            await asyncio.sleep(0)
            now += 100

    async def run() -> str:
        other = asyncio.create_task(passes())
        try:
            return await metered(work(), spent.append)
        finally:
            other.cancel()

    assert asyncio.run(run()) == "done"
    assert spent == [1, 1, 1, 0.5]


def test_errors_and_cancelling_reach_the_work() -> None:
    seen: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    async def fail() -> None:
        await asyncio.sleep(0)
        raise ZeroDivisionError

    async def session() -> None:  # a task takes no generator from Python 3.12 on
        await metered(work(), lambda _: None)

    async def run() -> None:
        task = asyncio.create_task(session())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(ZeroDivisionError):
            await metered(fail(), lambda _: None)

    asyncio.run(run())
    assert seen == ["cancelled"]
