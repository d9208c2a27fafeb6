"""Where a worker process begins: forked from the warm server, told what to do over its socket."""

import contextlib
import os
import select
import signal
import socket
import sys
import time
import traceback
from types import FrameType

from setproctitle import setproctitle

from mpnet.jit import perf
from mpnet.jit.compile import JIT
from mpnet.jit.system_calls import name_of
from mpnet.rpc.channel import Channel, ChannelClosedError
from mpnet.rpc.worker import Forbidden, Isolated, Request
from mpnet.segment import process
from mpnet.segment.layout import Code
from mpnet.segment.segment import Segment
from mpnet.workers.isolation.descriptors import close_others, let_go
from mpnet.workers.isolation.header import protect
from mpnet.workers.isolation.stages import isolate
from mpnet.workers.isolation.violation import on_violation
from mpnet.workers.worker import Worker

UNISOLATED = "MPNET_PERF" if perf.PERF else "MPNET_ISOLATION" if os.environ.get("MPNET_ISOLATION") == "0" else ""
"""The variable, if any, that has workers keep their rights, so that profilers and debuggers see into them."""


def run(device: str, slot: int, sock: socket.socket, segment_fd: int) -> None:
    """Serve queue pairs of ``device`` as the worker in ``slot`` until told to stop.

    Args:
        device: whose segment it is.
        slot: the worker's record in the segment.
        sock: the worker's end of its channel to control.
        segment_fd: of the device's segment, owned from here on.
    """
    setproctitle(process.worker_title(device, slot))
    if not UNISOLATED:
        close_others([sock.fileno(), segment_fd])
    if perf.PERF:
        perf.write_map()
    segment = Segment.from_fd(segment_fd, owner=None)
    let_go(segment_fd)
    protect(segment.address)
    sock.settimeout(0)
    channel = Channel(sock, Request)
    worker = Worker(segment, slot, channel)
    record = segment.workers[slot]
    record.pid = os.getpid()
    record.code = Code.COMPILED if JIT else Code.INTERPRETED
    record.start_ns = time.time_ns()
    record.start_ticks = process.start_ticks(os.getpid())
    record.heartbeat_ns = time.monotonic_ns()
    _handle_signals(worker)
    worker.open()
    _isolate(device, channel)
    failed = True
    try:
        worker.run()
        failed = False
    except Exception as error:  # noqa: BLE001 - whatever it is, it ends here
        _report(error)
    finally:
        worker.close()
        if record.pid == os.getpid():  # else a better one has taken the slot over
            record.pid = 0
    if failed:
        os._exit(1)


def _isolate(device: str, channel: Channel) -> None:
    """Give up what is not needed, and tell control what could not be given up."""
    if UNISOLATED:
        _tell(channel, Isolated({"all": f"{UNISOLATED} is set"}))
        return
    # Control pins a worker before it asks anything of it, and may not be allowed to once that is another user's.
    first = select.poll()
    first.register(channel.fileno(), select.POLLIN)
    first.poll()

    _kept.append(on_violation(lambda call, where: _tell(channel, Forbidden(name_of(call), where))))
    stages = isolate(device)
    _tell(channel, Isolated({stage.name: stage.detail for stage in stages if not stage.done}))


def _tell(channel: Channel, report: Isolated | Forbidden) -> None:
    with contextlib.suppress(OSError, ChannelClosedError):  # that control is gone will show
        channel.send(report)


_kept: list[object] = []
"""Handlers of signals."""


def _report(error: Exception) -> None:
    """Print a traceback without lines of source, which cannot be read any more."""
    lines = [
        f'  File "{frame.f_code.co_filename}", line {line}, in {frame.f_code.co_name}'
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    sys.stderr.write(
        "\n".join(["Traceback (most recent call last):", *lines, f"{type(error).__name__}: {error}\n"])
    )
    sys.stderr.flush()


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
