"""Numbered frames between the embedded driver and the host's end of a TAP, every one of them accounted for.

Each side sends no more than a window ahead of what the other side has seen, so no buffer of the kernel's ever
overflows: a frame that is missing was lost by the device.
"""

import socket
import struct
import threading
import time
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Self

from mpnet.guest.driver import Driver
from mpnet.guest.stream import Stream
from tests.real.running import wait_until

FLOWS = 64
"""Flows to the guest: so many that the TAP, which spreads them over its queues by hash, leaves none out."""

_WINDOW = 64
_FLOW_WINDOW = 8
_BATCH = 16
_RECEIVE_BYTES = 1 << 20
_PROBE_SECONDS = 1.0
_IPV4 = 0x0800
_ETHERTYPE = 0x88B5  # IEEE 802: for local experiments
_NUMBER = struct.Struct(">HQ")
_NUMBER_AT = 14
_TO_GUEST = Stream(frame_bytes=200)
_FIRST_PORT = 2000


class Lane:
    """One numbered sequence: how many were sent, and the numbers that came, in the order in which they came."""

    def __init__(self, window: int) -> None:
        self.sent = 0
        self.came: list[int] = []
        self.window = window
        self._probed = time.monotonic()

    @property
    def under_way(self) -> int:
        """Frames sent after the one that came last."""
        return self.sent - (self.came[-1] + 1 if self.came else 0)

    @property
    def missing(self) -> int:
        """Frames that have not come."""
        return self.sent - len(set(self.came))

    @property
    def repeated(self) -> int:
        """Frames that came again."""
        return len(self.came) - len(set(self.came))

    @property
    def ordered(self) -> bool:
        """Whether none came after a later one."""
        return sorted(self.came) == self.came

    def is_open(self) -> bool:
        """Whether to send more: there is room, or all that is under way may be lost and somebody has to ask."""
        if self.under_way >= self.window and time.monotonic() < self._probed + _PROBE_SECONDS:
            return False
        self._probed = time.monotonic()
        return True


class Exchange:
    """Traffic both ways on all queue pairs of a driver, from entering the block until `finish`.

    Args:
        driver: started; nobody else may use its queues meanwhile.
        tap: the host's end, in the caller's network namespace.

    Attributes:
        to_host: what was sent and came, by queue pair.
        to_guest: the same by flow.
        served: frames that each queue pair gave to the guest.
    """

    def __init__(self, driver: Driver, tap: str) -> None:
        self.to_host = [Lane(_WINDOW) for _ in driver.pairs]
        self.to_guest = [Lane(_FLOW_WINDOW) for _ in range(FLOWS)]
        self.served = [0 for _ in driver.pairs]
        self._driver = driver
        self._address = (tap, _IPV4)
        self._sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETHERTYPE))
        self._sock.bind((tap, _ETHERTYPE))
        # Windows of all queue pairs at once: the default holds 300 such frames or so.
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
        self._sock.settimeout(0.001)
        self._sending = True
        self._stopping = False
        self._failures: list[Exception] = []
        works = [*(partial(self._serve_guest, pair) for pair in range(len(driver.pairs))), self._serve_host]
        self._threads = [threading.Thread(target=self._run, args=(work,)) for work in works]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        for thread in self._threads:
            thread.join()
        self._sock.close()

    @property
    def lanes(self) -> list[Lane]:
        """All of them."""
        return [*self.to_host, *self.to_guest]

    def expect_progress(self, after: str) -> None:
        """Wait until frames have come that were sent from now on, on every queue pair and in every flow."""
        goals = [(lane, lane.sent) for lane in self.lanes]
        self._wait(lambda: all(lane.sent - lane.under_way > goal for lane, goal in goals), after)

    def finish(self) -> None:
        """Send no more and wait for what is under way."""
        self._sending = False
        self._wait(lambda: not any(lane.under_way for lane in self.lanes), "the last were sent")

    def _wait(self, condition: Callable[[], bool], after: str) -> None:
        wait_until(lambda: self._failures or condition(), f"frames both ways on all queues after: {after}")
        if self._failures:
            raise self._failures[0]

    def _run(self, work: Callable[[], None]) -> None:
        try:
            while not self._stopping:
                work()
        except Exception as error:  # noqa: BLE001 - raised again by whoever waits
            self._failures.append(error)

    def _serve_guest(self, pair: int) -> None:
        """Send a batch on a pair; take what has come to it."""
        driver, lane = self._driver, self.to_host[pair]
        if not driver.pairs[pair].receiver.posted:
            driver.post(pair)
        if self._sending and lane.is_open():
            first = lane.sent
            lane.sent += _BATCH
            driver.send(pair, [_frame_to_host(pair, number) for number in range(first, lane.sent)])
        for frame in driver.receive(pair, _BATCH, 0.001):
            if frame.data[:6] == _TO_GUEST.target_mac:
                flow, number = _NUMBER.unpack_from(frame.data, _TO_GUEST.payload_at)
                self.to_guest[flow].came.append(number)
                self.served[pair] += 1

    def _serve_host(self) -> None:
        """Send a frame in each flow; take what has come."""
        for flow, lane in enumerate(self.to_guest):
            if self._sending and lane.is_open():
                lane.sent += 1
                # Sent as what it is: the kernel hashes by ports only what it takes for IP.
                self._sock.sendto(_frame_to_guest(flow, lane.sent - 1), self._address)
        try:
            for _ in range(FLOWS):
                pair, number = _NUMBER.unpack_from(self._sock.recv(2048), _NUMBER_AT)
                self.to_host[pair].came.append(number)
        except TimeoutError:
            return


def _frame_to_host(pair: int, number: int) -> bytes:
    header = _TO_GUEST.source_mac + _TO_GUEST.target_mac + _ETHERTYPE.to_bytes(2, "big")
    return (header + _NUMBER.pack(pair, number)).ljust(60, b"\0")


def _frame_to_guest(flow: int, number: int) -> bytes:
    frame = bytearray(_TO_GUEST.frame())
    frame[_TO_GUEST.transport_at : _TO_GUEST.transport_at + 2] = (_FIRST_PORT + flow).to_bytes(2, "big")
    _NUMBER.pack_into(frame, _TO_GUEST.payload_at, flow, number)
    return bytes(frame)
