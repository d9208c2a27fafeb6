"""The embedded driver's queue and what it is made of, against a device of a few lines of Python."""

import os
import struct
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpnet.errors import GuestMemoryError, MpnetError
from mpnet.guest.chain import Arena, Layout
from mpnet.guest.frame import Frame, NetHeader
from mpnet.guest.memory import GuestMemory
from mpnet.guest.queue import Queue
from mpnet.guest.receiver import Receiver
from mpnet.guest.virtqueue import BROKEN, NOTHING, add, add_one, notify, take
from mpnet.virtio.features import Feature, mask
from tests.python_device import PythonDevice

SHM = Path("/dev/shm")  # noqa: S108 - where Linux shows POSIX shared memory
MEMORY = (4 << 20, 8 << 20)
SIZE = 8


@pytest.fixture
def memory():
    with GuestMemory(MEMORY) as memory:
        yield memory


@pytest.fixture
def queue(memory):
    queue = Queue(memory, 1, SIZE)
    yield queue
    queue.close()


@pytest.mark.parametrize("backing", ["memfd", "shm"])
def test_memory_is_read_as_written_across_regions(backing: str) -> None:
    before = set(SHM.iterdir())
    with GuestMemory(MEMORY, backing) as memory:  # type: ignore[arg-type]
        assert set(SHM.iterdir()) == before
        border = memory.regions[1].guest_address
        memory.write(border - 3, b"abcdef")
        assert memory.read(border - 3, 6) == b"abcdef"
        assert os.pread(memory.fd, 6, memory.regions[1].offset - 3) == b"abcdef"
        with pytest.raises(GuestMemoryError):
            memory.host_address(border - 3, 6)
        with pytest.raises(GuestMemoryError):
            memory.write(border + memory.regions[1].size - 1, b"ab")
        with pytest.raises(GuestMemoryError):
            memory.allocate(sum(MEMORY))


def test_regions_of_odd_sizes_are_refused() -> None:
    with pytest.raises(GuestMemoryError, match="multiple of 4096"):
        GuestMemory((1 << 20, 5000))


@given(
    cuts=st.lists(st.integers(1, 40), max_size=30),
    direct=st.none() | st.integers(0, 4),
    data=st.binary(min_size=1, max_size=300),
)
@settings(max_examples=60, deadline=None)
def test_any_layout_holds_the_same_bytes(cuts: list[int], direct: int | None, data: bytes) -> None:
    with GuestMemory(MEMORY) as memory, closing(Queue(memory, 1, 64)) as queue:
        arena = Arena(memory, 1 << 16)
        buffer = arena.place(len(data), Layout(tuple(cuts), direct), writable=False)
        assert buffer is not None
        arena.fill(buffer, data)
        assert add(queue.virtqueue, buffer.chain, len(buffer.chain)) != NOTHING
        notify(queue.virtqueue)
        device = PythonDevice(queue)
        (head,) = device.heads()
        assert device.gather(head) == data
        assert len(device.buffers(head)) == len(buffer.spans)
        assert arena.guards_stand(buffer)


@given(st.lists(st.tuples(st.integers(1, 3), st.randoms(use_true_random=False)), max_size=60))
@settings(max_examples=60, deadline=None)
def test_descriptors_are_never_shared_whatever_order_they_return_in(steps: list) -> None:
    with GuestMemory(MEMORY) as memory, closing(Queue(memory, 1, SIZE)) as queue:
        device, held = PythonDevice(queue), {}
        for number, (count, rng) in enumerate(steps):
            chain = np.array([[0x1000 + number, 64, 0]] * count, np.int64)
            free = SIZE - sum(held.values())
            head = add(queue.virtqueue, chain, count)
            assert (head == NOTHING) == (free < count)
            if head != NOTHING:
                assert head not in held
                held[head] = count
                notify(queue.virtqueue)
                assert device.heads() == [head]
                assert [row[0] for row in device.buffers(head)] == [0x1000 + number] * count
            elif held:
                back = rng.choice(sorted(held))
                device.give_back(back, 7)
                assert take(queue.virtqueue) == (back, 7)
                del held[back]
            assert take(queue.virtqueue) == (NOTHING, 0)


@pytest.mark.parametrize("head", [3, SIZE, 0xFFFFFFFF])
def test_a_chain_the_device_does_not_hold_breaks_the_queue(queue: Queue, head: int) -> None:
    add_one(queue.virtqueue, 0x1000, 64, 0)
    PythonDevice(queue).give_back(head)
    assert take(queue.virtqueue)[0] == BROKEN
    with pytest.raises(MpnetError, match="does not hold on ring 1"):
        queue.take()


def test_kicks_follow_the_used_flags(queue: Queue) -> None:
    add_one(queue.virtqueue, 0x1000, 64, 0)
    assert notify(queue.virtqueue)
    assert os.eventfd_read(queue.ring.kick_fd) == 1
    queue.memory.write(queue.guest.used, b"\1\0")
    add_one(queue.virtqueue, 0x1000, 64, 0)
    assert not notify(queue.virtqueue)
    assert not notify(queue.virtqueue)
    with pytest.raises(BlockingIOError):
        os.eventfd_read(queue.ring.kick_fd)


@pytest.mark.parametrize(("event", "kicks"), [(0, [True, False, False]), (1, [False, True, False])])
def test_kicks_follow_the_event_index(memory: GuestMemory, event: int, kicks: list[bool]) -> None:
    queue = Queue(memory, 1, SIZE, features=mask(Feature.RING_EVENT_IDX))
    memory.write(queue.guest.used + 4 + 8 * SIZE, struct.pack("<H", event))
    seen = []
    for _ in range(3):
        add_one(queue.virtqueue, 0x1000, 64, 0)
        seen.append(bool(notify(queue.virtqueue)))
    assert seen == kicks
    queue.close()


def test_waiting_ends_by_a_call_or_at_the_deadline(queue: Queue) -> None:
    assert not queue.wait(0)
    add_one(queue.virtqueue, 0x1000, 64, 0)
    PythonDevice(queue).give_back(0)
    assert queue.wait(0)


def receiver_with(memory: GuestMemory, sizes: int, *, mergeable: bool = True):
    queue = Queue(memory, 0, SIZE)
    receiver = Receiver(queue, 12, mergeable=mergeable)
    receiver.post(sizes, SIZE)
    return queue, receiver, PythonDevice(queue)


def test_a_frame_in_several_buffers_is_put_together(memory: GuestMemory) -> None:
    queue, receiver, device = receiver_with(memory, 40)
    first, second, third, *_ = device.heads()
    device.scatter(first, NetHeader(num_buffers=2).pack() + b"a" * 28)
    device.scatter(second, b"b" * 5)
    device.scatter(third, NetHeader(num_buffers=1, flags=2).pack() + b"c" * 3)
    frames = receiver.receive(2, 1)
    assert frames == [
        Frame(b"a" * 28 + b"b" * 5, NetHeader(num_buffers=2)),
        Frame(b"ccc", NetHeader(num_buffers=1, flags=2)),
    ]
    assert receiver.receive(1, 0) == []
    assert len(device.heads()) == 3
    queue.close()


@pytest.mark.parametrize(
    ("data", "length", "problem"),
    [(bytes(12), 12, "num_buffers 0"), (bytes(5), 5, "less than a header"), (bytes(40), 41, "wrote past")],
)
def test_a_device_that_miscounts_is_caught(memory: GuestMemory, data: bytes, length: int, problem: str) -> None:
    queue, receiver, device = receiver_with(memory, 40)
    head = device.heads()[0]
    memory.write(device.buffers(head)[0][0], data)
    device.give_back(head, length)
    with pytest.raises(MpnetError, match=problem):
        receiver.receive(1, 1)
    queue.close()


def test_a_device_that_writes_past_a_piece_is_caught(memory: GuestMemory) -> None:
    queue, receiver, device = receiver_with(memory, 40)
    head = device.heads()[0]
    address, length, _ = device.buffers(head)[0]
    memory.write(address, NetHeader(num_buffers=1).pack().ljust(length + 1, b"x"))
    device.give_back(head, length)
    with pytest.raises(MpnetError, match="wrote past"):
        receiver.receive(1, 1)
    queue.close()
