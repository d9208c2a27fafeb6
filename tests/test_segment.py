"""Making a device's segment where shared memory is short."""

import errno
import os
import uuid
from pathlib import Path
from types import ModuleType

import posix_ipc
import pytest

from mpnet.errors import MpnetError
from mpnet.segment import layout
from mpnet.segment.segment import PREFIX, Segment, identity


def test_all_of_it_is_there_before_a_worker_writes_to_it() -> None:
    name = f"test-{uuid.uuid4().hex[:12]}"
    made = Segment.create(name, 2)
    try:
        shown = Path(f"/dev/shm/{PREFIX}{name}")  # noqa: S108 - where Linux shows POSIX shared memory
        assert 512 * shown.stat().st_blocks >= layout.segment_bytes(2)
    finally:
        made.unlink()


@pytest.mark.parametrize(
    ("module", "function", "number"),
    [(os, "posix_fallocate", errno.ENOSPC), (posix_ipc, "SharedMemory", errno.EROFS)],
)
def test_no_memory_is_an_error_that_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, function: str, number: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(module, function, refuse)
    name = f"test-{uuid.uuid4().hex[:12]}"
    with pytest.raises(MpnetError, match=rf"no \d+ bytes .*'{name}'.*: {os.strerror(number)}: make room"):
        Segment.create(name, 1)
    assert identity(name) is None
