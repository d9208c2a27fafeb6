"""A log whose reader is slow, gone, or out of room: nobody waits, nothing raises, and what is lost is counted."""

import os
import socket
from pathlib import Path

import pytest

from mpnet.control.peer import Peer
from mpnet.control.sink import Sink
from mpnet.foreign import MOST_CHARACTERS, readable


def test_what_is_written_comes_out_in_order() -> None:
    ours, theirs = os.pipe()
    sink = Sink(theirs)
    for number in range(100):
        sink.write(f"line {number} \udcff\n")
    assert sink.drain(60)
    os.close(theirs)
    with os.fdopen(ours) as reader:
        assert reader.read() == "".join(f"line {number} \\udcff\n" for number in range(100))
    assert sink.lost == 0


def test_a_reader_that_stalls_holds_nobody_up_and_is_told_what_it_missed() -> None:
    ours, theirs = os.pipe()
    told: list[int] = []
    sink = Sink(theirs, most_bytes=1 << 17, regained=told.append)
    line = "x" * 999 + "\n"
    for _ in range(1000):
        sink.write(line)
    assert not sink.drain(0)
    lost = sink.lost
    assert 0 < lost < 1000
    for _ in range(1000 - lost):
        data = b""
        while len(data) < len(line):
            data += os.read(ours, len(line) - len(data))
    assert sink.drain(60)
    os.close(ours)
    os.close(theirs)
    assert sum(told) == lost


@pytest.mark.parametrize("nonblocking", [False, True])
def test_a_stream_that_others_have_made_non_blocking_loses_nothing(nonblocking: bool) -> None:
    ours, theirs = os.pipe()
    os.set_blocking(theirs, not nonblocking)
    sink = Sink(theirs)
    line = "x" * 999 + "\n"
    for _ in range(500):
        sink.write(line)
    data = b""
    while len(data) < 500 * len(line):
        data += os.read(ours, 1 << 16)
    assert data == line.encode() * 500
    assert sink.lost == 0
    assert sink.drain(60)
    os.close(ours)
    os.close(theirs)


def test_a_full_disk_and_a_reader_that_is_gone_cost_lines_only() -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    full = os.open("/dev/full", os.O_WRONLY)
    for fd in (theirs, full):
        sink = Sink(fd)
        for _ in range(10):
            sink.write("line\n")
        assert sink.drain(60)
        assert sink.lost == 10
        os.close(fd)


def test_a_line_that_was_cut_off_is_not_glued_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []
    room = [3, None, 100, 100]

    def write(_fd: int, data: bytes) -> int:
        taken = room.pop(0)
        if taken is None:
            raise OSError(28, "No space left on device")
        written.append(data[:taken])
        return min(taken, len(data))

    monkeypatch.setattr(os, "write", write)
    sink = Sink(99)
    sink.write("first\n")
    sink.write("second\n")
    assert sink.drain(60)
    assert b"".join(written) == b"fir\nsecond\n"


def test_foreign_text_is_readable_whatever_it_is() -> None:
    assert readable("größer".encode()) == "größer"
    assert readable("größer".encode()[:3]) == "gr\\xc3"
    assert readable(b"\x1b[2J\n\xff") == "\\x1b[2J\\n\\xff"
    assert len(readable(b"x" * 100_000)) == MOST_CHARACTERS


def test_a_peer_whose_name_is_cut_inside_a_character_has_one() -> None:
    comm = Path("/proc/self/comm")
    before = comm.read_bytes()
    comm.write_bytes("aaaaaaaaaaaaaaä".encode())
    one, other = socket.socketpair()
    try:
        assert Peer.of(one) == Peer(os.getpid(), os.geteuid(), "aaaaaaaaaaaaaa\\xc3")
    finally:
        comm.write_bytes(before)
        one.close()
        other.close()
