"""io_uring from compiled code: what is written arrives, in order, and errors come back."""

import ctypes
import errno
import os
from pathlib import Path

import numpy as np
import pytest

from mpnet.jit.uring import NOTHING, Uring, complete, entry, queue, submit, write_fixed
from mpnet.jit.uring_setup import WRITE


@pytest.fixture
def pipe():
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def _ring(fd, data):
    try:
        return Uring(4, [fd], [(data.ctypes.data, data.nbytes)])
    except PermissionError as error:
        pytest.skip(f"io_uring is forbidden here: {error}")


def test_writes_arrive_in_order_and_name_their_tags(pipe):
    data = np.frombuffer(b"abcdefgh", np.uint8).copy()
    with _ring(pipe[1], data) as ring:
        assert ring.state[0].entries == 4
        for turn in range(5):  # around the ring and more
            for place in range(4):
                write_fixed(ring.state, 0, data.ctypes.data + 2 * place, 2, 10 * turn + place)
            assert submit(ring.state, 4, 4) == 4
            done = []
            while (tag := complete(ring.state)) != NOTHING:
                done.append((tag, int(ring.state[0].result)))
            assert sorted(done) == [(10 * turn + place, 2) for place in range(4)]
            assert os.read(pipe[0], 100) == b"abcdefgh"


def test_an_operation_that_fails_has_its_error(pipe):
    data = np.zeros(8, np.uint8)
    with _ring(pipe[0], data) as ring:  # the end to read from
        write_fixed(ring.state, 0, data.ctypes.data, 8, 3)
        assert submit(ring.state, 1, 1) == 1
        assert complete(ring.state) == 3
        assert ring.state[0].result == -errno.EBADF
        assert complete(ring.state) == NOTHING


@pytest.mark.parametrize("operation", [0, 9, 16, 18, 22, 45])  # NOP, SENDMSG, CONNECT, OPENAT, READ, SOCKET
def test_a_ring_does_nothing_but_write(pipe, operation):
    data = np.zeros(64, np.uint8)
    with _ring(pipe[1], data) as ring:
        queue(ring.state, operation, 0, data.ctypes.data, 1, 7)
        assert submit(ring.state, 1, 1) == 1
        assert complete(ring.state) == 7
        assert ring.state[0].result == -errno.EACCES


def test_a_ring_writes_to_no_file_that_is_not_registered(pipe):
    data = np.zeros(64, np.uint8)
    with _ring(pipe[1], data) as ring:
        queue(ring.state, WRITE, pipe[1], data.ctypes.data, 1, 7)
        sqe = entry(ring.state, -1)
        ctypes.c_int64.from_address(sqe).value = WRITE | pipe[1] << 32  # a plain descriptor: without the flag
        assert submit(ring.state, 1, 1) == 1
        assert complete(ring.state) == 7
        assert ring.state[0].result == -errno.EACCES


def test_what_would_block_fails_and_waits_for_nothing(pipe):
    data = np.zeros(1 << 20, np.uint8)
    with _ring(pipe[1], data) as ring:
        write_fixed(ring.state, 0, data.ctypes.data, data.nbytes, 1)
        write_fixed(ring.state, 0, data.ctypes.data, 1, 2)
        assert submit(ring.state, 2, 2) == 2
        assert complete(ring.state) == 1
        assert 0 < ring.state[0].result < data.nbytes
        assert complete(ring.state) == 2
        assert ring.state[0].result == -errno.EAGAIN


def test_a_ring_that_cannot_be_registered_is_given_back(pipe):
    before = _open_files()
    with pytest.raises(OSError, match="Bad"):
        Uring(4, [pipe[1]], [(8, 1 << 20)])
    assert _open_files() == before


def _open_files():
    return {path.name for path in Path("/proc/self/fd").iterdir()}
