"""Memory that a front-end only seems to share: found by how its process has mapped it."""

import mmap
import os
from collections.abc import Iterator

import numpy as np
import pytest

from mpnet.control.sharing import unshared
from mpnet.vhost_user.effects import MemoryRegion

SIZE = 1 << 16


@pytest.fixture
def memory_fd() -> Iterator[int]:
    fd = os.memfd_create("guest")
    os.truncate(fd, SIZE)
    yield fd
    os.close(fd)


def mapped(fd: int, flags: int) -> mmap.mmap:
    return mmap.mmap(fd, SIZE, flags)


def region(memory: mmap.mmap, fd: int, into: int = 0) -> MemoryRegion:
    address = np.frombuffer(memory, np.uint8).ctypes.data
    return MemoryRegion(0, SIZE - into, address + into, into, fd)


def test_a_private_mapping_is_found_among_shared_ones(memory_fd: int) -> None:
    shared, private = mapped(memory_fd, mmap.MAP_SHARED), mapped(memory_fd, mmap.MAP_PRIVATE)
    hidden = region(private, memory_fd, into=mmap.PAGESIZE)
    assert unshared([region(shared, memory_fd), hidden], os.getpid()) == [hidden]


def test_a_private_mapping_of_another_file_proves_nothing(memory_fd: int) -> None:
    other = os.memfd_create("other")
    os.truncate(other, SIZE)
    private = mapped(other, mmap.MAP_PRIVATE)
    assert unshared([region(private, memory_fd)], os.getpid()) == []
    os.close(other)


def test_an_address_that_is_not_mapped_proves_nothing(memory_fd: int) -> None:
    assert unshared([MemoryRegion(0, SIZE, 1 << 62, 0, memory_fd)], os.getpid()) == []


def test_a_process_that_cannot_be_seen_has_the_benefit_of_the_doubt(memory_fd: int) -> None:
    private = mapped(memory_fd, mmap.MAP_PRIVATE)
    assert unshared([region(private, memory_fd)], 0) == []
