"""The first guest: mpnet's own driver, in this process, against sockets of the host's kernel."""

import math
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from mpnet.demo.echo import EchoPeer
from mpnet.demo.meter import Meter
from mpnet.demo.ping import ping
from mpnet.demo.stage import GUEST, HOST, QUEUE_PAIRS, Seen, Stage
from mpnet.demo.summary import Check, Part, ping_check, rings_check
from mpnet.demo.talk import Talk
from mpnet.demo.watch import Watch
from mpnet.guest.driver import DEFAULT_FEATURES, Driver, QueuePair, Setup
from mpnet.guest.memory import GuestMemory
from mpnet.guest.queue import Queue
from mpnet.guest.responder import Responder, serve
from mpnet.guest.stream import Stream
from mpnet.guest.traffic import Plan, Report, Traffic
from mpnet.jit.compile import JIT
from mpnet.rpc.state import DeviceReport
from mpnet.virtio.features import names

_PINGS = 5
_FLOWS = 8
_FIRST_PORT = 20000
_FRAME_BYTES = 1514
_WINDOW = 256
"""Datagrams under way at a time on a queue pair, so that no socket or TAP queue on the way overflows."""
_INTERPRETED_WINDOW = 32
"""The same for a driver that takes a while for each."""
_INTERPRETED_PAUSE_SECONDS = 0.2
"""Between its windows: the compiler needs the processors more."""
_PATIENCE_SECONDS = 10.0
"""How long the last of a window may take: what is not back by then is lost."""
_SLICE_SECONDS = 0.1
_WARM_BYTES = 16 << 20
_TELLING = ("MQ", "MRG_RXBUF", "CSUM", "RING_EVENT_IDX")
"""Features that say something about how frames move."""


def warm_up() -> None:
    """Compile the driver, or load it from the cache, on a queue pair that no device serves."""
    memory = GuestMemory((_WARM_BYTES,), "memfd")
    rx, tx = (Queue(memory, index, 256, features=DEFAULT_FEATURES) for index in range(2))
    pair = QueuePair(rx, tx, DEFAULT_FEATURES)
    pair.receiver.post(pair.any_frame_bytes)
    pair.receiver.receive(1, 0.0)
    Traffic(pair, Stream(), Plan()).run(0.0, send=0, receive=0)
    rx.close()
    tx.close()
    memory.close()


def show(stage: Stage, talk: Talk, seconds: float) -> Part:
    """Attach, be pinged, then exchange traffic for ``seconds``.

    Raises:
        MpnetError: the device refused the driver or broke a queue.
    """
    report = stage.show()
    with _driver(stage) as driver:
        negotiated = " ".join(name for name in names(driver.features) if name in _TELLING)
        talk.done(f"attached over vhost-user: {negotiated}")
        answered = _pinged(driver, report)
    pinged = talk.check(ping_check(_PINGS, answered))
    # A queue that answered pings has other buffers than one that carries a stream: the driver attaches anew.
    stage.know_guest(report.mac)
    with _driver(stage) as driver:
        part = _exchange(driver, stage, talk, seconds)
    stage.forget_guest()
    part.checks.insert(0, pinged)
    return part


def look(stage: Seen, talk: Talk, ended: threading.Event) -> bool:
    """Attach, and exchange traffic until ``ended``; whether all of it arrived.

    Raises:
        MpnetError: the device refused the driver or broke a queue.
    """
    stage.know_guest(stage.show().mac)
    with _driver(stage) as driver:
        part = _exchange(driver, stage, talk, math.inf, ended)
    stage.forget_guest()
    return all(check.ok for check in part.checks)


def _driver(stage: Seen) -> Driver:
    return Driver.connect(stage.socket, Setup(queue_pairs=QUEUE_PAIRS))


def _pinged(driver: Driver, report: DeviceReport) -> list[float]:
    """Answer in the guest's name while the kernel pings; milliseconds of each answer."""
    responder = Responder(bytes.fromhex(report.mac.replace(":", "")), (GUEST,))
    ended = threading.Event()

    def answer(pair: int) -> None:
        while not ended.is_set():
            serve(driver, pair, responder, _SLICE_SECONDS)

    with ThreadPoolExecutor(QUEUE_PAIRS) as threads:
        serving = [threads.submit(answer, pair) for pair in range(QUEUE_PAIRS)]
        try:
            times = ping(GUEST, _PINGS)
        finally:
            ended.set()
        for each in serving:
            each.result()
    return times


@dataclass
class _Flows:
    """One queue pair's flows: the driver's source and sink, and the kernel's socket that sends back.

    Attributes:
        sent: datagrams.
        received: datagrams back, each byte compared.
        corrupt: among those back.
        echoed: datagrams the socket received, and sent back.
    """

    traffic: Traffic
    peer: EchoPeer
    sent: int = 0
    received: int = 0
    corrupt: int = 0
    echoed: tuple[int, int] = (0, 0)
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def window(self) -> int:
        return min(_WINDOW if JIT else _INTERPRETED_WINDOW, self.peer.capacity)

    def begin(self) -> None:
        """Send one datagram of each flow, which tells the TAP whose queue it is, before any can come back."""
        self._count(self.traffic.run(_PATIENCE_SECONDS, send=_FLOWS, receive=0))
        self.peer.start()

    def run(self) -> None:
        """Send and take back, a window at a time, until told to end or something is lost."""
        self._count(self.traffic.run(_PATIENCE_SECONDS, send=0, receive=_FLOWS - self.received))
        while not self.ended.is_set():
            report = self.traffic.run(_PATIENCE_SECONDS, send=self.window, receive=self.window)
            self._count(report)
            if not report.finished:
                return
            if not JIT:
                self.ended.wait(_INTERPRETED_PAUSE_SECONDS)

    def _count(self, report: Report) -> None:
        self.sent += report.sent["packets"]
        self.received += report.received["packets"]
        self.corrupt += report.received["corrupt"]


def _exchange(
    driver: Driver, stage: Seen, talk: Talk, seconds: float, ended: threading.Event | None = None
) -> Part:
    meter = Meter(stage.segment())
    with ExitStack() as stack:
        flows = [
            _Flows(_traffic(driver, stage, pair, peer), peer)
            for pair in range(QUEUE_PAIRS)
            for peer in [stack.enter_context(EchoPeer(HOST))]
        ]
        for each in flows:
            each.begin()
        length = "traffic" if ended else f"{seconds:g} s of traffic"
        talk.note(f"{length}: {_FLOWS} UDP flows of {_FRAME_BYTES}-byte frames on each queue pair;")
        talk.note("the kernel's sockets send all back, and every byte that comes back is compared")
        begin = time.monotonic()
        with _running(flows) as threads, Watch(talk.console, meter) as watch:
            while time.monotonic() - begin < seconds and not any(thread.done() for thread in threads):
                watch.look()
                if ended and ended.is_set():
                    break
        took = time.monotonic() - begin
        for each in flows:
            each.echoed = each.peer.finish()
    rings = meter.totals()
    checks = [talk.check(check) for check in (*_checks(flows), rings_check(rings))]
    return Part(guest="mpnet's own driver", seconds=took, rings=rings, checks=checks)


@contextmanager
def _running(flows: list[_Flows]) -> Iterator[list[Future[None]]]:
    """Run each pair's loop in a thread; whatever happens, they have ended when the block is left."""
    with ThreadPoolExecutor(len(flows)) as threads:
        futures = [threads.submit(each.run) for each in flows]
        try:
            yield futures
        finally:
            for each in flows:
                each.ended.set()
        for future in futures:
            future.result()


def _traffic(driver: Driver, stage: Seen, pair: int, peer: EchoPeer) -> Traffic:
    stream = Stream(
        source_mac=bytes.fromhex(stage.show().mac.replace(":", "")),
        target_mac=stage.tap_mac(),
        source=GUEST,
        target=HOST,
        first_port=_FIRST_PORT + pair * _FLOWS,
        target_port=peer.port,
        flows=_FLOWS,
        frame_bytes=_FRAME_BYTES,
    )
    return Traffic(driver.pairs[pair], stream, Plan())


def _checks(flows: list[_Flows]) -> list[Check]:
    sent = sum(each.sent for each in flows)
    taken, returned = (sum(each.echoed[way] for each in flows) for way in (0, 1))
    received, corrupt = sum(each.received for each in flows), sum(each.corrupt for each in flows)
    return [
        Check(
            "guest to host",
            0 < sent == taken,
            f"{sent:,} sent, {taken:,} received by the kernel's sockets",
        ),
        Check(
            "host to guest",
            0 < returned == received and corrupt == 0,
            f"{returned:,} sent, {received:,} received whole, {corrupt:,} damaged",
        ),
    ]
