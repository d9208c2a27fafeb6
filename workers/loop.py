"""The worker's loop: bursts while there is work, one wait for everything when there is none.

Every fd is watched edge-triggered. A kick's eventfd is therefore never read, which saves a system call a kick:
each write to it is an edge. A TAP queue is read until it has nothing more, and then tells when that changes.
"""

import errno

from mpnet.jit.compile import compiled
from mpnet.jit.memory import load_i64
from mpnet.jit.syscalls import epoll_wait
from mpnet.workers.consume import consume
from mpnet.workers.echo import echo
from mpnet.workers.poll import ROUNDS_A_LOOK, offer_processor, pace
from mpnet.workers.receive import receive
from mpnet.workers.ring import memory_was_lost, refuse_kicks
from mpnet.workers.state import (
    ATTENTION,
    ECHO,
    EPOLL_DATA_OFFSET,
    EPOLL_EVENT_BYTES,
    HEARTBEAT_MS,
    KICK,
    MAX_EVENTS,
    TAP,
    Context,
)
from mpnet.workers.statistics import beat, count_round
from mpnet.workers.transmit import transmit


@compiled
def serve(ctx: Context) -> None:
    """Move packets until Python's part of the worker is needed: a message, a signal, or a broken ring."""
    worker = ctx.worker[0]
    stats = ctx.stats[0]
    rounds = 0
    began = beat(ctx)
    while True:
        before = stats.burst_packets
        busy = _serve_queues(ctx)
        ended = beat(ctx)
        moved = stats.burst_packets - before
        if moved:
            count_round(ctx, ended - began)
        if pace(ctx, moved, ended):
            rounds += 1
            attention = rounds % ROUNDS_A_LOOK == 0 and _wait(ctx, 0)
            ended = offer_processor(ctx, ended)
            busy = True
        else:
            # A ring that broke is reported at once, though nothing else may happen for long.
            attention = _wait(ctx, 0 if busy or worker.broken else HEARTBEAT_MS)
        if attention or worker.broken:
            return
        # What it slept is no part of a round; looking for events in between is.
        began = ended if busy else beat(ctx)


@compiled
def _serve_queues(ctx: Context) -> bool:
    """One burst of each queue that may have work; whether any may have more."""
    busy = False
    for i in range(ctx.worker[0].pairs):
        rx_index = 2 * ctx.pairs[i]
        rx_ring = ctx.rings[rx_index]
        tx_ring = ctx.rings[rx_index + 1]
        if tx_ring.backend != TAP:
            _serve_without_tap(ctx, rx_index)
            memory_was_lost(ctx, rx_index + 1)
            busy |= tx_ring.started and tx_ring.ready
            continue
        if tx_ring.started and tx_ring.ready:
            if transmit(ctx, rx_index + 1) and ctx.worker[0].polling:
                _expect_answers(ctx, rx_index)
            # Also a burst that finds nothing: what it looked at may be zeros in the place of what was lost.
            memory_was_lost(ctx, rx_index + 1)
            busy |= tx_ring.ready != 0
        if rx_ring.started and rx_ring.enabled and rx_ring.ready:
            receive(ctx, rx_index)
            memory_was_lost(ctx, rx_index)
            busy |= rx_ring.ready != 0
    return busy


@compiled
def _expect_answers(ctx: Context, rx_index: int) -> None:
    """Look whether the host has answered already what was just sent, while the worker polls.

    After a round without work as many answers are expected as last time, and shown without looking for more,
    which takes a system call.
    """
    rx_ring = ctx.rings[rx_index]
    rx_ring.ready = 1
    if ctx.worker[0].idle_rounds:
        rx_ring.more = 0


@compiled
def _serve_without_tap(ctx: Context, rx_index: int) -> None:
    """One burst of a queue pair that has no TAP, if it may have work."""
    rx_ring = ctx.rings[rx_index]
    tx_ring = ctx.rings[rx_index + 1]
    echoing = tx_ring.backend == ECHO
    if not echoing and rx_ring.started and rx_ring.ready:
        # Nothing will ever be put into its buffers.
        refuse_kicks(ctx, rx_index)
        rx_ring.ready = 0
    if not tx_ring.started or not (tx_ring.ready or (echoing and rx_ring.ready)):
        return
    if echoing:
        echo(ctx, rx_index)
    else:
        consume(ctx, rx_index + 1)


@compiled
def _wait(ctx: Context, timeout_ms: int) -> bool:
    """Take what has happened, for up to ``timeout_ms``; whether Python's part is needed."""
    worker = ctx.worker[0]
    count = epoll_wait(worker.epoll_fd, worker.events, MAX_EVENTS, timeout_ms)
    if count == -errno.EINTR:
        return True
    attention = False
    for i in range(count):
        data = load_i64(worker.events + i * EPOLL_EVENT_BYTES + EPOLL_DATA_OFFSET)
        kind = data & 0xFF
        if kind == ATTENTION:
            attention = True
            continue
        index = data >> 8
        ctx.rings[index].ready = 1
        if kind == KICK:
            ctx.shared[index].kicks += 1
    if timeout_ms and count > 0:
        ctx.stats[0].wakeups += 1
    return attention
