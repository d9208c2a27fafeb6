"""Memory that a front-end only seems to share: found by how its process has mapped it."""

import asyncio
import mmap
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mpnet.control import sharing
from mpnet.control.log import get_log
from mpnet.control.peer import Peer
from mpnet.control.sharing import Backing, unshared
from mpnet.vhost_user.effects import MemoryRegion
from tests.control_harness import eventually

SIZE = 1 << 16


@pytest.fixture
def memory_fd() -> Iterator[int]:
    fd = os.memfd_create("guest")
    os.truncate(fd, SIZE)
    yield fd
    os.close(fd)


def mapped(fd: int, flags: int) -> mmap.mmap:
    return mmap.mmap(fd, SIZE, flags)


def region(memory: mmap.mmap, fd: int, into: int = 0) -> Backing:
    address = np.frombuffer(memory, np.uint8).ctypes.data
    return Backing.of(MemoryRegion(0, SIZE - into, address + into, into, fd))


def test_a_private_mapping_is_found_among_shared_ones(memory_fd: int) -> None:
    shared, private = mapped(memory_fd, mmap.MAP_SHARED), mapped(memory_fd, mmap.MAP_PRIVATE)
    hidden = region(private, memory_fd, into=mmap.PAGESIZE)
    assert unshared([region(shared, memory_fd), hidden], os.getpid()) == [hidden.region]


def test_a_private_mapping_of_another_file_proves_nothing(memory_fd: int) -> None:
    other = os.memfd_create("other")
    os.truncate(other, SIZE)
    private = mapped(other, mmap.MAP_PRIVATE)
    assert unshared([region(private, memory_fd)], os.getpid()) == []
    os.close(other)


def test_an_address_that_is_not_mapped_proves_nothing(memory_fd: int) -> None:
    assert unshared([Backing.of(MemoryRegion(0, SIZE, 1 << 62, 0, memory_fd))], os.getpid()) == []


def test_a_process_that_cannot_be_seen_has_the_benefit_of_the_doubt(memory_fd: int) -> None:
    private = mapped(memory_fd, mmap.MAP_PRIVATE)
    assert unshared([region(private, memory_fd)], 0) == []


def test_files_of_any_name_disturb_nothing(memory_fd: int, tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode("p \u2028 \x85\xff".encode("latin-1", "replace") + b"\xff\xfe")
    odd.write_bytes(bytes(SIZE))
    with odd.open("r+b") as file:
        other = mapped(file.fileno(), mmap.MAP_PRIVATE)
    memory = mapped(memory_fd, mmap.MAP_PRIVATE)
    private = region(memory, memory_fd)
    assert unshared([private], os.getpid()) == [private.region]
    other.close()


def test_a_map_of_any_length_is_read_to_a_bound(memory_fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = mapped(memory_fd, mmap.MAP_PRIVATE)
    private = region(memory, memory_fd)
    assert unshared([private], os.getpid()) == [private.region]
    monkeypatch.setattr(sharing, "_MOST_BYTES", 1)
    assert unshared([private], os.getpid()) == []


def test_a_map_is_gone_through_once_however_many_regions_there_are(
    memory_fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    mapping = sharing._mapping

    def counted(line: bytes) -> sharing._Mapping:
        nonlocal looks
        looks += 1
        return mapping(line)

    monkeypatch.setattr(sharing, "_mapping", counted)
    memories = [mapped(memory_fd, mmap.MAP_PRIVATE) for _ in range(50)]
    regions = [region(memory, memory_fd) for memory in memories]
    with Path("/proc/self/maps").open("rb") as maps:
        lines = len(maps.readlines())
    assert unshared(regions, os.getpid()) == [each.region for each in regions]
    assert len(regions) <= looks <= 2 * lines


def test_memory_is_looked_at_one_look_at_a_time_and_the_last_counts(
    memory_fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []
    on = threading.Event()

    def slow(backings: list[Backing], pid: int) -> list[MemoryRegion]:
        begun.append(pid)
        assert on.wait(60)
        return [each.region for each in backings]

    monkeypatch.setattr(sharing, "unshared", slow)
    monkeypatch.setattr(sharing, "LOOK_SECONDS", 0)
    regions = [MemoryRegion(0, SIZE, number, 0, memory_fd) for number in range(100)]

    async def run() -> None:
        watch = sharing.SharingWatch(get_log())
        looking = asyncio.create_task(watch.run())
        watch.look(regions[:1], Peer(1, 0, ""))
        await eventually(lambda: begun, "the first look")
        for pid, each in enumerate(regions[1:], 2):
            watch.look([each], Peer(pid, 0, ""))
        assert watch.unshared == []
        on.set()
        await eventually(lambda: watch.unshared, "the last look")
        assert watch.unshared == regions[-1:]
        watch.look([], None)
        assert watch.unshared == []
        looking.cancel()

    asyncio.run(run())
    assert begun == [1, 100]
