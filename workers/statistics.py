"""What a worker counts in shared memory, once a burst or once a drop."""

from mpnet.jit.compile import compiled
from mpnet.jit.syscalls import clock_ns
from mpnet.segment.layout import BURST_BUCKETS, ROUND_BUCKETS_NS
from mpnet.segment.trace import NO_SUBJECT, Kind
from mpnet.workers.state import HEARTBEAT_MS, Context
from mpnet.workers.trace import trace

CLOCK_MONOTONIC = 1
STALL_NS = 1_000_000 * HEARTBEAT_MS + 1_000_000_000
"""A second more than lies between an idle worker's heartbeats: beyond it something held the worker up."""

_BURST = int(Kind.BURST)
_STALLED = int(Kind.STALLED)


@compiled
def count_burst(ctx: Context, index: int, packets: int) -> None:
    """Count a burst of ring ``index`` in the histogram of frames per burst; trace it where that is asked for."""
    stats = ctx.stats[0]
    bucket = 0
    while bucket < len(BURST_BUCKETS) and packets > BURST_BUCKETS[bucket]:
        bucket += 1
    stats.bursts[bucket] += 1
    stats.burst_packets += packets
    if stats.first_packet_ns == 0:
        stats.first_packet_ns = clock_ns(CLOCK_MONOTONIC, ctx.worker[0].timespec)
    if ctx.worker[0].trace_bursts:
        trace(ctx, _BURST, index, packets, ctx.rings[index].returned)


@compiled
def count_drop(ctx: Context, index: int, reason: int) -> None:
    """Count a frame that ring ``index`` did not deliver, by ``layout.DropReason``."""
    ctx.shared[index].drops[reason] += 1


@compiled
def beat(ctx: Context) -> int:
    """Show that the worker lives, and trace it where that was not seen for long; the time (CLOCK_MONOTONIC)."""
    stats = ctx.stats[0]
    now = clock_ns(CLOCK_MONOTONIC, ctx.worker[0].timespec)
    if now - stats.heartbeat_ns > STALL_NS and stats.heartbeat_ns:
        trace(ctx, _STALLED, NO_SUBJECT, now - stats.heartbeat_ns, 0)
    stats.heartbeat_ns = now
    return now


@compiled
def count_round(ctx: Context, nanoseconds: int) -> None:
    """Count a round of bursts over the worker's queues in the histogram of their durations."""
    stats = ctx.stats[0]
    bucket = 0
    while bucket < len(ROUND_BUCKETS_NS) and nanoseconds > ROUND_BUCKETS_NS[bucket]:
        bucket += 1
    stats.rounds[bucket] += 1
    stats.round_ns += nanoseconds
