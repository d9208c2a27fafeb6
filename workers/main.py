"""Where a worker process begins: forked from the warm server, told what to do over its socket."""

import os
import signal
import socket
import time
from types import FrameType

from setproctitle import setproctitle

from mpnet.jit import perf
from mpnet.rpc.channel import Channel
from mpnet.rpc.worker import Request
from mpnet.segment import process
from mpnet.segment.segment import Segment
from mpnet.workers.worker import Worker


def run(device: str, slot: int, sock: socket.socket, segment_fd: int) -> None:
    """Serve queue pairs of ``device`` as the worker in ``slot`` until told to stop.

    Args:
        device: whose segment it is.
        slot: the worker's record in the segment.
        sock: the worker's end of its channel to control.
        segment_fd: descriptor of the device's segment.
    """
    setproctitle(process.worker_title(device, slot))
    if perf.PERF:
        perf.write_map()
    segment = Segment.from_fd(segment_fd, owner=None)
    os.close(segment_fd)
    sock.settimeout(0)
    worker = Worker(segment, slot, Channel(sock, Request))
    record = segment.workers[slot]
    record.pid = os.getpid()
    record.start_ns = time.time_ns()
    record.start_ticks = process.start_ticks(os.getpid())
    record.heartbeat_ns = time.monotonic_ns()
    _handle_signals(worker)
    try:
        worker.run()
    finally:
        worker.close()
        record.pid = 0


def _handle_signals(worker: Worker) -> None:
    """SIGTERM ends the worker after its burst; SIGINT is for control, which then ends the worker."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        worker.stopping = True

    # Python runs its handlers when the compiled loop returns, which the byte in the pipe makes it do. Nobody
    # reads the pipe: each write is an edge, and a full one has been noticed long ago.
    read_end, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    worker.watch.attention(read_end)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
