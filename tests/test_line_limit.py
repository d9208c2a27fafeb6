"""How often one event of one device is logged, and that what is left out is told."""

import pytest
import structlog

from mpnet.control import line_limit
from mpnet.control.line_limit import LINES, LineLimit


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limit(clock: Clock) -> LineLimit:
    return LineLimit(clock)


def passes(limit: LineLimit, **event: str) -> structlog.typing.EventDict | None:
    try:
        return limit(None, "", {"event": "request refused", "device": "net0", **event})
    except structlog.DropEvent:
        return None


def test_an_event_that_is_repeated_without_end_is_limited_and_counted(limit: LineLimit, clock: Clock) -> None:
    assert sum(passes(limit) is not None for _ in range(1000)) == LINES
    assert limit.left_out == 1000 - LINES
    clock.now += 1
    line = passes(limit)
    assert line is not None
    assert line["left_out"] == 1000 - LINES
    assert passes(limit) is None
    clock.now += 1e6
    assert [passes(limit) for _ in range(LINES)].count(None) == 0


def test_other_events_and_other_devices_are_not_limited_with_it(limit: LineLimit) -> None:
    while passes(limit):
        pass
    assert passes(limit, device="net1")
    assert passes(limit, event="front-end connected")


def test_what_was_left_out_is_told_though_nothing_follows(limit: LineLimit, clock: Clock) -> None:
    for _ in range(LINES + 5):
        passes(limit)
    assert list(limit.overdue()) == []
    clock.now += 1
    assert list(limit.overdue()) == [("net0", "request refused", 5)]
    assert list(limit.overdue()) == []


def test_devices_that_come_and_go_fill_no_memory(limit: LineLimit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_limit, "_MOST_BUCKETS", 16)
    for number in range(100):
        passes(limit, device=f"net{number}")
    assert len(limit._buckets) <= 16
