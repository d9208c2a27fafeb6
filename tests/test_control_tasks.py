"""Tasks that nobody waits for: their faults are seen, and what is to run for good does."""

import asyncio

import pytest
import structlog

from mpnet.control import tasks
from mpnet.control.log import get_log
from mpnet.control.tasks import Tasks


def test_a_fault_in_a_task_is_logged() -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    async def run() -> None:
        owned = Tasks(get_log())
        owned.start(fail())
        await owned.finish()
        await asyncio.sleep(0)

    with structlog.testing.capture_logs() as lines:
        asyncio.run(run())
    assert [line["event"] for line in lines] == ["task failed"]
    assert "fail" in lines[0]["task"]


def test_what_is_kept_running_is_begun_anew_after_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "_PAUSE_SECONDS", 0)
    outcomes = [ZeroDivisionError(), UnicodeDecodeError("utf-8", b"", 0, 1, ""), None]

    async def work() -> None:
        if outcome := outcomes.pop(0):
            raise outcome

    async def run() -> None:
        owned = Tasks(get_log())
        await owned.keep(work)

    with structlog.testing.capture_logs() as lines:
        asyncio.run(run())
    assert outcomes == []
    assert [line["event"] for line in lines] == ["task failed, and is begun anew"] * 2


def test_what_is_cancelled_ends_in_silence() -> None:
    async def run() -> None:
        owned = Tasks(get_log())
        owned.keep(asyncio.Event().wait)  # type: ignore[arg-type]
        await asyncio.sleep(0)
        await owned.cancel()

    with structlog.testing.capture_logs() as lines:
        asyncio.run(run())
    assert lines == []
