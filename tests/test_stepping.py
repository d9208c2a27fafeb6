"""Wherever a worker dies, its replacement gives the driver what it would have got: see ``stepping``.

Runs interpreted alone, by ``test_interpreted.py``.
"""

import gc
import itertools
import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from mpnet.errors import MpnetError
from mpnet.guest.chain import PLAIN, Arena, Layout
from mpnet.guest.frame import Frame
from mpnet.guest.virtqueue import NOTHING, add
from mpnet.jit.compile import JIT
from mpnet.virtio.features import Feature, mask
from tests.quirky_stream import Flow
from tests.segmenter import Packet, segment
from tests.stepping import Died, Stepped, Steps, wake, watched_accesses
from tests.superframes import Kind, superframe
from tests.test_segmentation import finished, put_on_tap
from tests.worker_harness import FEATURES, HEADER_BYTES

__test__ = not JIT

PACKED = mask(Feature.RING_PACKED)
NO_EVENT = mask(Feature.RING_EVENT_IDX)
MERGEABLE = mask(Feature.MRG_RXBUF)
CSUM = mask(Feature.GUEST_CSUM)
MEMORY = (8 << 20,)


@pytest.fixture(scope="module", autouse=True)
def _accesses() -> Iterator[None]:
    gc.freeze()  # to look at all that is imported, again and again, would take a third of the time
    with watched_accesses():
        yield
    gc.unfreeze()


@dataclass
class Sending:
    """A driver's tx queue: all frames there are, as many as fit at a time, the next whenever it is called."""

    device: Stepped
    frames: list[Frame]
    layout: Layout = PLAIN
    returned: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._waiting = deque(enumerate(self.frames))
        self._held: dict[int, int] = {}
        self._arena = Arena(self.device.memory, 1 << 20, packed=self.device.tx.packed)
        self.device.on_call[1] = self.go_on

    def go_on(self) -> None:
        wake(self.device.tx, self._once)

    def _once(self) -> None:
        queue = self.device.tx
        while (used := queue.take()) is not None:
            head, length = used
            assert length == 0
            self.returned.append(self._held.pop(head))
        while self._waiting:
            number, frame = self._waiting[0]
            data = frame.header.pack(HEADER_BYTES) + frame.data
            buffer = self._arena.place(len(data), self.layout, writable=False)
            assert buffer is not None
            self._arena.fill(buffer, data)
            head = add(queue.virtqueue, buffer.chain, len(buffer.chain))
            if head == NOTHING:
                return
            self._held[head] = number
            self._waiting.popleft()


@dataclass
class Receiving:
    """A driver's rx queue: each buffer is given again as soon as it comes back."""

    device: Stepped
    room: int = 1600
    count: int = 8
    layout: Layout = PLAIN
    got: list[Frame] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.device.on_call[0] = self.go_on

    def post(self) -> None:
        self.device.receiver.post(self.room, self.count, self.layout)
        self.go_on()

    def go_on(self) -> None:
        wake(self.device.rx, self._once)

    def _once(self) -> None:
        while (used := self.device.rx.take()) is not None:
            self.got += self.device.receiver._collect(*used)


def numbered(count: int, size: int = 60) -> list[Frame]:
    """Frames that tell themselves apart, of no known flow."""
    generator = random.Random(1)
    return [Frame(bytes(12) + b"\x88\xb5" + bytes([n]) + generator.randbytes(size - 15)) for n in range(count)]


def on_the_tap(device: Stepped) -> list[Frame]:
    """What the host was given, superframes cut up again."""
    device.tap.setblocking(False)
    frames = []
    try:
        while True:
            packet = Packet.read(device.tap.recv(1 << 17))
            frames += [Frame(data) for data in segment(packet)]
    except BlockingIOError:
        return frames


def serve_whatever_dies(device: Stepped, *drivers: Sending | Receiving, looking: bool) -> int:
    """Serve until there is nothing to do, with a replacement for each worker that dies; how many did.

    ``looking``: the drivers act at that very moment; else only when they are called.
    """
    deaths = 0
    replaced = True
    while True:
        try:
            with device.steps.armed():
                if not replaced:
                    device.replace_worker()
                replaced = True
                device.serve()
            return deaths
        except Died:
            deaths += 1
            replaced = False
            for driver in drivers if looking else ():
                driver.go_on()


def check_sent(sent: list[bytes], got: list[bytes], most: int) -> None:
    """None is lost, and ``most`` are there twice: what came goes back by so many, once, and on from there."""
    repeated = len(got) - len(sent)
    assert 0 <= repeated <= most, f"{len(sent)} frames were sent, {len(got)} came"
    again = [end for end in range(repeated, len(sent) + 1) if got == sent[:end] + sent[end - repeated :]]
    assert again, "frames are in disorder"


def check_received(sent: list[bytes], got: list[bytes], most: int) -> None:
    """What a worker had read and not shown goes with it, ``most`` frames; none is there twice, or cut."""
    lost = len(sent) - len(got)
    assert 0 <= lost <= most, f"{len(sent)} frames were sent, {len(got)} came"
    assert any(got == sent[:begin] + sent[begin + lost :] for begin in range(len(got) + 1)), (
        "frames are in disorder"
    )


def every_step(run: Callable[[Steps], int]) -> None:
    """Repeat a run with each of its steps as the last one of the first worker, until the worker outlives it."""
    for last in itertools.count(1):
        steps = Steps(last)
        try:
            died = run(steps)
        except (AssertionError, MpnetError) as error:
            error.add_note(f"the worker died before the last of these: {steps.said[:last]}")
            raise
        if not died:
            # What makes a ring's progress, in the order that all this is about.
            assert {"place", "call"} <= {said.split(" ")[0] for said in steps.said}
            return


RINGS = {
    "split": (FEATURES, 4, PLAIN),
    "packed": (FEATURES | PACKED, 4, PLAIN),
    "split without event index": (FEATURES & ~NO_EVENT, 4, PLAIN),
    "packed without event index": (FEATURES & ~NO_EVENT | PACKED, 4, PLAIN),
    "split chains": (FEATURES, 8, Layout((12, 20))),
    "packed chains of an odd ring": (FEATURES | PACKED, 7, Layout((12, 20))),
    "split indirect": (FEATURES, 4, Layout((12,), 0)),
    "packed indirect": (FEATURES | PACKED, 4, Layout((12,), 0)),
}


def scenarios(table: dict[str, Any]) -> list[Any]:
    """Each with a driver that looks when the worker dies; plain rings also with one that is only called."""
    looking = [pytest.param(*_tuple(row), True, id=f"{name}, driver looks") for name, row in table.items()]
    asleep = [
        pytest.param(*_tuple(row), False, id=f"{name}, driver asleep")
        for name, row in table.items()
        if name in {"split", "packed"}
    ]
    return [*looking, *asleep]


def _tuple(row: Any) -> tuple[Any, ...]:
    return row if isinstance(row, tuple) else (row,)


PLAIN_RINGS = {"split": FEATURES, "packed": FEATURES | PACKED}


@pytest.mark.parametrize(("features", "entries", "layout", "looking"), scenarios(RINGS))
def test_tx(features: int, entries: int, layout: Layout, looking: bool) -> None:
    frames = numbered(6)

    def run(steps: Steps) -> int:
        with Stepped(steps, entries=entries, features=features, sizes=MEMORY) as device:
            device.start()
            driver = Sending(device, frames, layout)
            driver.go_on()
            died = serve_whatever_dies(device, driver, looking=looking)
            assert driver.returned == list(range(len(frames)))
            check_sent([f.data for f in frames], [f.data for f in on_the_tap(device)], entries * died)
            return died

    every_step(run)


@pytest.mark.parametrize(("features", "looking"), scenarios(PLAIN_RINGS))
def test_tx_coalesced(features: int, looking: bool) -> None:
    flow = Flow(1, tcp=True, ipv6=False, size=100)
    frames = [flow.frame() for _ in range(6)]

    def run(steps: Steps) -> int:
        with Stepped(steps, entries=4, features=features, sizes=MEMORY) as device:
            device.start()
            driver = Sending(device, frames)
            driver.go_on()
            died = serve_whatever_dies(device, driver, looking=looking)
            assert driver.returned == list(range(len(frames)))
            check_sent([f.data for f in frames], [f.data for f in on_the_tap(device)], 4 * died)
            return died

    every_step(run)


@pytest.mark.parametrize("second", range(1, 4))
@pytest.mark.parametrize("features", [FEATURES, FEATURES | PACKED], ids=["split", "packed"])
def test_a_replacement_that_dies_as_it_starts(features: int, second: int) -> None:
    """What it does first is to show again what may not have been shown: so does the one after it."""
    frames = numbered(3)

    def run(steps: Steps) -> int:
        steps.again = second
        with Stepped(steps, entries=2, features=features, sizes=MEMORY) as device:
            device.start()
            driver = Sending(device, frames)
            driver.go_on()
            died = serve_whatever_dies(device, driver, looking=True)
            assert driver.returned == list(range(len(frames)))
            got = [f.data for f in on_the_tap(device)]
            assert len(got) <= len(frames) + 2 * died
            assert list(dict.fromkeys(got)) == [f.data for f in frames]
            return died

    every_step(run)


ROOMY, TIGHT = 1600, 60
"""Bytes of an rx buffer: one holds a frame, or it takes two."""
RX = {
    **{name: (*ring, ROOMY) for name, ring in RINGS.items()},
    "split, two buffers each": (FEATURES, 4, PLAIN, TIGHT),
    "packed, two buffers each": (FEATURES | PACKED, 5, PLAIN, TIGHT),
    "split without mergeable buffers": (FEATURES & ~MERGEABLE, 4, PLAIN, ROOMY),
    "packed without mergeable buffers": (FEATURES & ~MERGEABLE | PACKED, 4, PLAIN, ROOMY),
    "split without checksum offload": (FEATURES & ~CSUM, 4, PLAIN, TIGHT),
    "packed without checksum offload": (FEATURES & ~CSUM | PACKED, 4, PLAIN, ROOMY),
}


def unfinished(count: int) -> list[Packet]:
    """Datagrams whose checksum is left to the receiver, as the host's own are."""
    packets = [superframe(Kind(tcp=False, ipv6=False), 0, bytes([number] * 20)) for number in range(count)]
    return [replace(packet, gso_type=0) for packet in packets]


@pytest.mark.parametrize(("features", "entries", "layout", "room", "looking"), scenarios(RX))
def test_rx(features: int, entries: int, layout: Layout, room: int, looking: bool) -> None:
    packets = unfinished(5)
    frames = [frame for packet in packets for frame in segment(packet)]

    def run(steps: Steps) -> int:
        with Stepped(steps, entries=entries, features=features, sizes=MEMORY) as device:
            for packet in packets:
                put_on_tap(device, packet)
            device.start()
            driver = Receiving(device, room, entries, layout)
            driver.post()
            died = serve_whatever_dies(device, driver, looking=looking)
            check_received(frames, [finished(frame) for frame in driver.got], entries * died)
            assert device.segment.rings[0].spilled == 0
            put_on_tap(device, packets[0])
            device.serve()
            assert finished(driver.got[-1]) == frames[0]
            return died

    every_step(run)


SEGMENTED = {
    "split": FEATURES,
    "packed": FEATURES | PACKED,
    "split, not mergeable": FEATURES & ~MERGEABLE,
    "packed, no checksum offload": FEATURES & ~CSUM | PACKED,
}


@pytest.mark.parametrize(("features", "looking"), scenarios(SEGMENTED))
def test_rx_segmented(features: int, looking: bool) -> None:
    packets = [superframe(Kind(tcp=number == 0, ipv6=False), 50, bytes([number]) * 220) for number in range(2)]
    expected = [frame for packet in packets for frame in segment(packet)]

    def run(steps: Steps) -> int:
        with Stepped(steps, entries=4, features=features, sizes=MEMORY) as device:
            for packet in packets:
                put_on_tap(device, packet)
            device.start()
            driver = Receiving(device, 160, 4)
            driver.post()
            died = serve_whatever_dies(device, driver, looking=looking)
            # A burst that was not shown, and a superframe that is read and not noted yet: five segments.
            check_received(expected, [finished(frame) for frame in driver.got], (4 + 5) * died)
            assert device.segment.rings[0].spilled == 0
            return died

    every_step(run)


@pytest.mark.parametrize(("features", "looking"), scenarios(PLAIN_RINGS))
def test_echo(features: int, looking: bool) -> None:
    frames = numbered(6)

    def run(steps: Steps) -> int:
        with Stepped(steps, entries=4, features=features, sizes=MEMORY, backend="echo") as device:
            device.start()
            receiving = Receiving(device, 1600, 4)
            receiving.post()
            sending = Sending(device, frames)
            sending.go_on()
            died = serve_whatever_dies(device, sending, receiving, looking=looking)
            assert sending.returned == list(range(len(frames)))
            check_sent([f.data for f in frames], [f.data for f in receiving.got], 4 * died)
            return died

    every_step(run)
