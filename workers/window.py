"""The rx buffers that lie ready: chains taken in this burst, translated and not yet filled.

How long a frame is shows only when it has been read, so chains are taken ahead. What a burst took and did not
fill is available again to the next.
"""

from mpnet.jit.compile import compiled, inlined
from mpnet.segment.layout import LOG_ENTRIES
from mpnet.workers.chain import WRITABLE, chain_bytes
from mpnet.workers.ring import give_back, take
from mpnet.workers.state import Context

MAX_READ_SEGMENTS = 1000
"""Below IOV_MAX, with room for the spill."""


@compiled
def open_window(ctx: Context) -> None:
    """Begin a burst: no chain is taken."""
    window = ctx.window[0]
    window.translated = 0
    window.filled = 0
    window.begin = 0
    window.end = 0
    window.bytes = 0
    window.descriptors = 0
    window.fault = 0
    window.reads = 0
    window.errors = 0


@inlined
def extend_window(ctx: Context, index: int, size: int) -> None:
    """Translate chains until the window has ``size`` bytes, as far as there are chains.

    Without MRG_RXBUF a frame has one chain, and the window no more than that. It never has more than a packed
    ring's log takes, however short the chains.
    """
    ring = ctx.rings[index]
    worker = ctx.worker[0]
    window = ctx.window[0]
    while window.bytes < size:
        if window.translated == LOG_ENTRIES or (not ring.mergeable and window.translated > window.filled):
            return
        end = take(ctx, index, window.end, WRITABLE)
        if end <= 0:
            window.fault = worker.fault if end < 0 else 0
            return
        chain = ctx.chains[window.translated]
        chain.buffer_id = worker.buffer_id
        chain.span = worker.span
        chain.end = end
        chain.bytes = chain_bytes(ctx, window.end, end)
        window.bytes += chain.bytes
        window.descriptors += worker.descriptors
        window.end = end
        window.translated += 1


@inlined
def direct_bytes(ctx: Context) -> int:
    """Bytes of the window that one readv(2) can take."""
    window = ctx.window[0]
    if window.end - window.begin <= MAX_READ_SEGMENTS:
        return int(window.bytes)
    return chain_bytes(ctx, window.begin, window.begin + MAX_READ_SEGMENTS)


@inlined
def fill_chains(ctx: Context, index: int, length: int) -> int:
    """Enter the chains that hold ``length`` bytes in the used ring; returns how many they are."""
    window = ctx.window[0]
    first = window.filled
    while length > 0:
        chain = ctx.chains[window.filled]
        written = min(length, chain.bytes)
        give_back(ctx, index, chain.buffer_id, chain.span, written)
        length -= written
        window.bytes -= chain.bytes
        window.begin = chain.end
        window.filled += 1
    return int(window.filled - first)


@compiled
def can_never_hold(ctx: Context, index: int) -> bool:
    """Whether the frame that the window is too small for will not fit, whatever the driver gives besides.

    That is so where a frame has one chain; else where all chains are walked, none is filled, and the table has no
    room for one more like the last, or the window none.
    """
    ring = ctx.rings[index]
    window = ctx.window[0]
    if window.translated == window.filled:
        return False
    room = ring.entries - window.descriptors
    full = room < ctx.worker[0].descriptors or window.translated == LOG_ENTRIES
    return bool(not ring.mergeable or (window.filled == 0 and full))
