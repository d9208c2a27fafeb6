"""How long a worker goes on looking before it sleeps: adaptive polling.

While a worker polls it looks at every ring in each round and asks no driver for a kick; it reads a TAP queue
after it has written to it, and every few rounds, and has the kernel tell of no frames meanwhile. It polls for up
to its *window* after the last work. The window grows as long as work comes within the budget, and shrinks to
nothing when it comes later: a guest that is idle, or pings once a second, costs what it costs without polling.
KVM's halt polling adapts by the same rule (Linux, Documentation/virt/kvm/halt-polling.rst).

Looking for work is no work. A worker that polls therefore offers its processor to others every few
microseconds: the thread of the guest's machine monitor that is to interrupt the guest may wait for just that one.
Where somebody takes more than a moment of it, polling does harm, as no kick is asked for meanwhile: then the poll
ends, and for some time no other begins.
"""

from mpnet.jit.compile import compiled
from mpnet.jit.syscalls import clock_ns, sched_yield
from mpnet.workers.state import Context
from mpnet.workers.statistics import CLOCK_MONOTONIC
from mpnet.workers.watch import forget_taps, watch_taps

LEAST_WINDOW_NS = 10_000
"""Less than a sleep and a wake-up take: polling for less gains nothing."""
ROUNDS_A_READ = 8
"""Rounds without work between two reads of the TAP queues: each takes as long as looking at some ten rings."""
ROUNDS_A_LOOK = 16
"""Rounds between two looks for messages and signals, while nothing sleeps: some tens of microseconds."""
ROUNDS_AN_OFFER = 64
"""Rounds without work between two offers of the processor, each a system call of half a microsecond."""
CROWDED_NS = 200_000
"""Others that take longer need the processor. QEMU's main loop takes some 30 to 60 µs to hand on an interrupt."""
CROWDED_TIMES = 4
"""No poll begins for so many times as long as others took; with 64 a guest's pings were hardly polled for."""


@compiled
def pace(ctx: Context, moved: int, now: int) -> bool:
    """Decide after a round whether another one follows at once.

    Args:
        ctx: the worker's context.
        moved: frames moved in the round.
        now: when it ended.
    """
    worker = ctx.worker[0]
    again = worker.polling  # also after the last round: every ring is to be looked at with kicks on
    quiet = now - worker.worked_ns
    if worker.polling and moved:
        ctx.stats[0].poll_hits += worker.idle_rounds > 0
        worker.idle_rounds = 0
    elif worker.polling:
        worker.idle_rounds += 1
        ctx.stats[0].poll_ns += now - worker.looked_ns
        if quiet >= worker.window_ns:
            _give_up(ctx)
        elif worker.idle_rounds % ROUNDS_A_READ == 0:
            _look_at_all(ctx)
    elif moved and worker.poll_ns and now >= worker.crowded_ns:
        _adapt(ctx, quiet)
    if moved:
        worker.worked_ns = now
    worker.looked_ns = now
    return bool(again or worker.polling)


@compiled
def offer_processor(ctx: Context, now: int) -> int:
    """Now and then, while the worker polls, let others have its processor; the time when it has that again."""
    worker = ctx.worker[0]
    if not worker.polling or (worker.idle_rounds + 1) % ROUNDS_AN_OFFER:
        return now
    sched_yield()
    back = clock_ns(CLOCK_MONOTONIC, worker.timespec)
    note_absence(ctx, now, back)
    return back


@compiled
def note_absence(ctx: Context, left: int, back: int) -> None:
    """Others had the processor from ``left`` to ``back``: no time polled, and if it was long, poll no more."""
    worker = ctx.worker[0]
    worker.looked_ns = back
    if back - left > CROWDED_NS:
        worker.crowded_ns = back + CROWDED_TIMES * (back - left)
        _give_up(ctx)


@compiled
def _give_up(ctx: Context) -> None:
    """Poll no more; each ring asks for kicks when it is looked at next."""
    if not watch_taps(ctx):
        return  # nothing would tell of frames: the kernel has no memory for it at the moment
    ctx.worker[0].polling = 0
    _look_at_all(ctx)
    ctx.stats[0].poll_misses += 1


@compiled
def _adapt(ctx: Context, quiet: int) -> None:
    """Work came after ``quiet`` nanoseconds for which no poll was under way: set the window, and begin."""
    worker = ctx.worker[0]
    if quiet <= worker.poll_ns:
        worker.window_ns = min(max(2 * worker.window_ns, LEAST_WINDOW_NS), worker.poll_ns)
    else:
        worker.window_ns //= 2
        if worker.window_ns < LEAST_WINDOW_NS:
            worker.window_ns = 0
    if worker.window_ns:
        worker.polling = 1
        worker.idle_rounds = 0
        forget_taps(ctx)
        _look_at_all(ctx)


@compiled
def _look_at_all(ctx: Context) -> None:
    for i in range(ctx.worker[0].pairs):
        ctx.rings[2 * ctx.pairs[i]].ready = 1
        ctx.rings[2 * ctx.pairs[i] + 1].ready = 1
