"""The device's half of a split virtqueue: what is available, publishing, kicks and calls (VIRTIO 1.3, 2.7)."""

from mpnet.jit.compile import compiled
from mpnet.jit.memory import fence
from mpnet.jit.syscalls import write
from mpnet.segment.layout import Fault, RingState
from mpnet.virtio.split_ring import (
    AVAIL_F_NO_INTERRUPT,
    USED_F_NO_NOTIFY,
    avail_flags,
    avail_index,
    need_event,
    publish_used,
    set_avail_event,
    set_used_flags,
    used_event,
)
from mpnet.workers.state import Context

_AVAIL_INDEX = int(Fault.AVAIL_INDEX)
_MEMORY_LOST = int(Fault.MEMORY_LOST)
_BROKEN = int(RingState.BROKEN)


@compiled
def available(ctx: Context, index: int) -> int:
    """Chains the driver has made available and nobody has taken (2.7.13), at most the ring's size.

    Returns -1, with the ring broken, when the driver's index runs further ahead than the ring is long:
    clamping it would hand out chains twice.
    """
    ring = ctx.rings[index]
    pending = (avail_index(ring.avail) - ring.avail_index) & 0xFFFF
    if pending > ring.entries:
        break_ring(ctx, index, _AVAIL_INDEX)
        return -1
    return int(pending)


@compiled
def break_ring(ctx: Context, index: int, fault: int) -> None:
    """The guest broke this ring: serve it no more until it is set up anew, and say so on its error fd."""
    ring = ctx.rings[index]
    shared = ctx.shared[index]
    ring.started = 0
    ring.ready = 0
    shared.fault = fault
    shared.faults += 1
    shared.state = _BROKEN
    ctx.worker[0].broken = 1
    if ring.err_fd >= 0:
        write(ring.err_fd, ctx.worker[0].one, 8)


@compiled
def memory_was_lost(ctx: Context, index: int) -> bool:
    """Whether guest memory vanished while this ring was served; then the ring is broken."""
    worker = ctx.worker[0]
    if worker.memory_lost == worker.memory_lost_seen:
        return False
    worker.memory_lost_seen = worker.memory_lost
    break_ring(ctx, index, _MEMORY_LOST)
    return True


@compiled
def refuse_kicks(ctx: Context, index: int) -> None:
    """Tell the driver that kicks are not needed while the ring is being served (2.7.10).

    With EVENT_IDX the avail_event that stays behind says so by itself.
    """
    ring = ctx.rings[index]
    if ring.kicks_wanted and not ring.event_idx:
        set_used_flags(ring.used, USED_F_NO_NOTIFY)
    ring.kicks_wanted = 0


@compiled
def want_kicks(ctx: Context, index: int, seen: int) -> bool:
    """Ask for a kick at the next chain but ``seen``; True when one came in before the driver could see that.

    Between the ask and the look stands a full fence: without it the look may be done first, the driver may add
    its chain after the look and before it sees the ask, and both sides wait for ever.
    """
    ring = ctx.rings[index]
    if ring.event_idx:
        set_avail_event(ring.used, ring.entries, ring.avail_index + seen)
    else:
        set_used_flags(ring.used, 0)
    ring.kicks_wanted = 1
    fence()
    return available(ctx, index) > seen


@compiled
def publish(ctx: Context, index: int, taken: int, returned: int) -> None:
    """Show a burst's used entries to the driver and call it once if it wants that (2.7.8.2, 2.7.7).

    The place in the ring is stored in shared memory first: see ``segment.layout`` for what a crash in between
    leaves behind.
    """
    ring = ctx.rings[index]
    shared = ctx.shared[index]
    ring.avail_index = (ring.avail_index + taken) & 0xFFFF
    ring.used_index = (ring.used_index + returned) & 0xFFFF
    shared.avail_index = ring.avail_index
    shared.used_index = ring.used_index
    publish_used(ring.used, ring.used_index)
    call(ctx, index)


@compiled
def call(ctx: Context, index: int) -> None:
    """Call the driver unless it said that it need not know (2.7.7.2).

    The fence keeps the look at the driver's wish behind the store of the used index, as in ``want_kicks``.
    """
    ring = ctx.rings[index]
    shared = ctx.shared[index]
    fence()
    if ring.signalled < 0:
        wanted = True
    elif ring.event_idx:
        wanted = need_event(used_event(ring.avail, ring.entries), ring.used_index, ring.signalled)
    else:
        wanted = avail_flags(ring.avail) & AVAIL_F_NO_INTERRUPT == 0
    ring.signalled = ring.used_index
    if wanted and ring.call_fd >= 0:
        write(ring.call_fd, ctx.worker[0].one, 8)
        shared.calls += 1
    else:
        shared.calls_suppressed += 1
