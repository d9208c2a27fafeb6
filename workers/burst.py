"""A burst of a tx ring that stays in guest memory until all its chains are known."""

from mpnet.jit.compile import inlined
from mpnet.jit.memory import prefetch
from mpnet.segment.layout import CACHE_LINE
from mpnet.workers.chain import READABLE, iovec_base
from mpnet.workers.ring import take
from mpnet.workers.state import BURST_SEGMENTS, RING_BURST, Context


@inlined
def list_burst(ctx: Context, index: int) -> int:
    """Take up to a burst of chains into the slots from 0 on, and list them in ``ctx.chains``; how many.

    ``window.end`` is the slot behind the last, ``window.fault`` what is wrong with the one that follows, or 0.
    """
    worker = ctx.worker[0]
    window = ctx.window[0]
    window.fault = 0
    taken = 0
    slot = 0
    while taken < RING_BURST and slot < BURST_SEGMENTS:
        end = take(ctx, index, slot, READABLE)
        if end <= 0:
            window.fault = worker.fault if end < 0 else 0
            break
        # The driver's processor has these lines: they come while the chains behind this one are read.
        prefetch(iovec_base(ctx, slot))
        prefetch(iovec_base(ctx, slot) + CACHE_LINE)
        chain = ctx.chains[taken]
        chain.buffer_id = worker.buffer_id
        chain.span = worker.span
        chain.end = end
        slot = end
        taken += 1
    window.end = slot
    return taken
