"""What a worker counts in shared memory, once a burst or once a drop."""

from mpnet.jit.compile import compiled
from mpnet.jit.syscalls import clock_ns
from mpnet.segment.layout import BURST_BUCKETS, ROUND_BUCKETS_NS
from mpnet.workers.state import Context

CLOCK_MONOTONIC = 1


@compiled
def count_burst(ctx: Context, packets: int) -> None:
    """Count a burst in the histogram of frames per burst."""
    stats = ctx.stats[0]
    bucket = 0
    while bucket < len(BURST_BUCKETS) and packets > BURST_BUCKETS[bucket]:
        bucket += 1
    stats.bursts[bucket] += 1
    stats.burst_packets += packets
    if stats.first_packet_ns == 0:
        stats.first_packet_ns = clock_ns(CLOCK_MONOTONIC, ctx.worker[0].timespec)


@compiled
def count_drop(ctx: Context, index: int, reason: int) -> None:
    """Count a frame that ring ``index`` did not deliver, by ``layout.DropReason``."""
    ctx.shared[index].drops[reason] += 1


@compiled
def beat(ctx: Context) -> int:
    """Show that the worker lives; returns the time, of CLOCK_MONOTONIC."""
    now = clock_ns(CLOCK_MONOTONIC, ctx.worker[0].timespec)
    ctx.stats[0].heartbeat_ns = now
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
