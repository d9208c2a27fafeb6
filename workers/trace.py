"""A worker's trace in shared memory, written by compiled code: see ``segment.trace``."""

from mpnet.jit.compile import compiled
from mpnet.jit.memory import fence, load_i64, store_i64, store_release_i64
from mpnet.jit.syscalls import clock_ns
from mpnet.segment.layout import CACHE_LINE, EVENT, TRACE_ENTRIES
from mpnet.workers.state import Context

CLOCK_REALTIME = 0

_EVENT_BYTES = EVENT.itemsize


@compiled
def trace(ctx: Context, kind: int, subject: int, first: int, second: int) -> None:
    """Add an event to the worker's trace.

    Args:
        ctx: the worker's context.
        kind: a ``segment.trace.Kind``.
        subject: the ring or queue pair it is about, or -1.
        first: its first value, as ``segment.trace.VALUES`` names it.
        second: its second value.
    """
    worker = ctx.worker[0]
    count = load_i64(worker.trace_ring)
    event = worker.trace_ring + CACHE_LINE + _EVENT_BYTES * (count % TRACE_ENTRIES)
    store_i64(event, 0)
    fence()  # a reader that sees one of the values below sees that the record is being written
    store_i64(event + 8, clock_ns(CLOCK_REALTIME, worker.timespec))
    store_i64(event + 16, kind)
    store_i64(event + 24, subject)
    store_i64(event + 32, first)
    store_i64(event + 40, second)
    store_i64(event + 48, 0)
    store_release_i64(event, count + 1)
    store_release_i64(worker.trace_ring, count + 1)
