"""The live view: its figures, and its screen in a terminal that a test types into."""

import json
import os
import re
import signal
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mpnet.guest.driver import Driver, Setup
from mpnet.guest.stream import Stream
from mpnet.guest.traffic import Plan, Traffic
from mpnet.segment.layout import DropReason, Fault, RingState
from mpnet.segment.segment import Segment
from mpnet.top.history import History, sparkline
from mpnet.top.rates import DeviceRates, DirectionRates, QueueRates, Sampler, Snapshot
from mpnet.top.tables import fit, number, queue_columns
from tests.real.running import MPNET, Running, running_on_tap, wait_until
from tests.real.terminal import Terminal


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (12.4, "12"), (999.4, "999"), (999.6, "1.00k"), (4711, "4.71k"), (47_110, "47.1k"),
     (99_960, "100k"), (471_100, "471k"), (1.2e6, "1.20M"), (9.6e9, "9.60G"), (5e15, "5000T")],
)  # fmt: skip
def test_rates_are_short(value: float, text: str) -> None:
    assert number(value) == text


def test_a_sparkline_is_as_high_as_its_highest_sample() -> None:
    assert sparkline([0, 1, 4, 8]) == "▁▂▅█"
    assert sparkline([0, 0]) == "▁▁"
    assert sparkline([]) == ""


@pytest.fixture
def segment() -> Iterator[Segment]:
    made = Segment.create(f"test-{uuid.uuid4().hex[:12]}", 4)
    made.header.workers = 2
    yield made
    made.unlink()


def expect_rate(rate: float, count: int, snapshot: Snapshot) -> None:
    """The rate is that of ``count`` in the time that the snapshot says it is of."""
    assert rate == pytest.approx(count / snapshot.seconds)


def test_rates_are_differences_of_what_is_in_shared_memory(segment: Segment) -> None:
    sampler = Sampler([segment.name])
    segment.rings[4].packets = 1000
    assert sampler.sample().devices[0].queues[2].rx.packets == 0
    tx, worker = segment.rings[5], segment.workers[0]
    segment.rings[4].packets += 300
    for ring, serves in enumerate((1, 1, 2, 2, 1, 1, 0, 0)):
        segment.rings[ring].worker = serves
    tx.bytes += 4000
    tx.drops[DropReason.TAP_DOWN] += 7
    tx.state, tx.fault = RingState.BROKEN, Fault.CHAIN_LOOP
    worker.bursts[2] += 10
    worker.burst_packets += 35
    worker.pid, worker.heartbeat_ns = os.getpid(), time.monotonic_ns()
    snapshot = sampler.sample()
    (device,) = snapshot.devices
    assert [(queue.queue, queue.worker) for queue in device.queues] == [(0, 0), (1, 1), (2, 0), (3, None)]
    queue = device.queues[2]
    expect_rate(queue.rx.packets, 300, snapshot)
    expect_rate(queue.tx.bits, 32_000, snapshot)
    expect_rate(queue.drops, 7, snapshot)
    assert (queue.tx.state, queue.tx.fault, queue.tx.total_drops) == ("broken", "chain_loop", {"tap_down": 7})
    assert device.queues[1].cpu is not None
    assert device.queues[3].cpu is None, "nobody serves it"
    first, second = device.workers
    assert (first.batch, first.queues, first.alive) == (3.5, [0, 2], True)
    expect_rate(first.packets, 35, snapshot)
    assert (second.batch, second.queues, second.alive) == (0, [1], False)


def test_what_no_worker_of_ours_writes_is_shown_as_numbers(segment: Segment) -> None:
    """Root looks at other users' devices, and whoever takes a worker over writes there what he likes."""
    segment.rings.state = segment.rings.fault = 99
    segment.workers.code = segment.workers.pid = -7
    segment.header.negotiation = 1 << 62
    (device,) = Sampler([segment.name]).sample().devices
    assert {(queue.rx.state, queue.rx.fault) for queue in device.queues} == {("unknown 99", "unknown 99")}
    assert {(worker.code, worker.alive) for worker in device.workers} == {("unknown -7", False)}


def test_a_device_that_comes_back_has_no_rates_of_the_last_one() -> None:
    name = f"test-{uuid.uuid4().hex[:12]}"
    sampler, history = Sampler([name]), History()
    first = Segment.create(name, 1)
    first.rings[0].packets = 5
    sampler.sample()
    first.unlink()
    assert sampler.sample().devices == []
    second = Segment.create(name, 1)
    try:
        second.rings[0].packets = 3
        snapshot = sampler.sample()
        assert snapshot.devices[0].queues[0].rx.packets == 0
        history.add(snapshot)
        assert history.line(name, 0, 3) == "  ▁"
    finally:
        second.unlink()


@contextmanager
def traffic(driver: Driver) -> Iterator[None]:
    """Frames on the first tx ring as long as the block lasts."""
    stream = Traffic(driver.pairs[0], Stream(), Plan(receive=False))
    thread = threading.Thread(target=stream.run, args=(600.0,))
    thread.start()
    try:
        wait_until(lambda: stream.source.state[0].packets, "the first frames are sent", 60)
        yield
    finally:
        stream.stop()
        thread.join()


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="mpnet-") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def device() -> Iterator[Running]:
    with running_on_tap(queue_pairs=2) as running:
        yield running


def test_a_stream_of_json_tells_the_rates(device: Running) -> None:
    command = [MPNET, "top", "net0", "--json-stream", "--count", "2", "--interval", "0.3"]
    with Driver.connect(device.socket, Setup(queue_pairs=2)) as driver, traffic(driver):
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    looks = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(looks) == 2
    for look in looks:
        (shown,) = look["devices"]
        assert (shown["device"], shown["state"], shown["enabled_pairs"]) == ("net0", "running", 2)
        assert shown["queues"][0]["tx"]["packets"] > 0
        assert shown["queues"][1]["tx"]["packets"] == 0
        assert shown["workers"][0]["packets"] > 0
        assert [queue["worker"] for queue in shown["queues"]] == [0, 1]
        assert [worker["pid"] for worker in shown["workers"]] == device.workers()


def rows(screen: str, pattern: str) -> list[str]:
    """The lines of a screen that match."""
    return [line for line in screen.splitlines() if re.search(pattern, line)]


QUEUE = r"^ *net0 +[01] "


def expect_order(terminal: Terminal, heading: str, queues: str) -> None:
    """Wait until the queues are listed in this order under a heading; a screen is drawn in several steps."""

    def listed() -> bool:
        screen = terminal.screen
        return heading in screen and "".join(row.split()[1] for row in rows(screen, QUEUE)) == queues

    wait_until(listed, f"queues in the order {queues} under {heading}")


def still(terminal: Terminal) -> str:
    """A screen that is drawn to its end: two looks at it are the same."""
    looks = [""]

    def same() -> bool:
        looks.append(terminal.screen)
        return looks[-1] == looks[-2]

    wait_until(same, "the screen stands still")
    return looks[-1]


def test_the_screen_in_a_terminal(device: Running, folder: Path) -> None:
    with Terminal(folder) as terminal, Driver.connect(device.socket, Setup(queue_pairs=2)) as driver:
        terminal.type(f"{MPNET} top --interval 0.2; echo left=$?", "Enter")
        with traffic(driver):
            terminal.expect("mpnet top", "rx pps", "tx pps", "cpu", "state", "trend", "█", "Quit")
            busy = r"net0 +0 +0 +0 +[\d.]+[kM] .* [1-9]\d*% +run "
            wait_until(
                lambda: re.search(busy, terminal.screen), "queue 0 has a rate, its worker's time and a state"
            )
            assert all(len(line) <= 80 for line in terminal.screen.splitlines())

            for _ in range(3):
                terminal.type("s")
            terminal.expect("rx pps▼")
            terminal.type("s")
            expect_order(terminal, "tx pps▼", "01")
            terminal.type("r")
            expect_order(terminal, "tx pps▲", "10")

            terminal.type("p")
            terminal.expect("PAUSED")
            held = still(terminal)
            terminal.type("r")
            terminal.expect("tx pps▼", "PAUSED")
            wait_until(
                lambda: rows(terminal.screen, QUEUE) == rows(held, QUEUE)[::-1], "the same in the other order"
            )
            terminal.type("p")
            wait_until(lambda: "PAUSED" not in terminal.screen, "it goes on")

            terminal.type("?")
            help_text = terminal.expect("Ctrl-C", "processor", "disabled by the guest", "Any key goes back")
            assert all(len(line) <= 80 for line in help_text.splitlines())
            terminal.type("s")
            wait_until(lambda: "Any key goes back" not in terminal.screen, "the keys are gone")
            terminal.expect("tx pps▼")  # the key was for that alone

            terminal.type("Home", "Enter")
            terminal.expect("net0  queue pair 0  worker 0", "packets/s", "tx drops", "running", "packets a burst")
            terminal.type("Escape")
            terminal.expect("tx pps▼")
            terminal.type("Tab")
            terminal.expect("devices", "running", "2/2")
            terminal.type("Tab")
            terminal.expect("workers", "cpu", "batch", str(device.workers()[1]))
            killed = device.workers()[1]
            os.kill(killed, signal.SIGKILL)
            wait_until(lambda: device.workers()[1:] not in ([], [killed]), "the worker is replaced")
            terminal.expect(str(device.workers()[1]))
            terminal.resize(150, 40)
            terminal.type("Tab")
            terminal.expect("state", "running / running")
        device.kill()
        terminal.type("Tab")
        terminal.expect("orphaned")
        device.start()
        terminal.expect("listening")
        device.stop()  # so no test of it comes after this one
        wait_until(lambda: "net0" not in terminal.screen, "the device is gone")
        terminal.type("?")
        terminal.expect("Any key goes back")
        terminal.type("C-c")
        terminal.expect("left=0")
        flags = ("alternate_on", "mouse_any_flag", "cursor_flag", "keypad_flag")
        assert [terminal.flag(name) for name in flags] == ["0", "0", "1", "0"]
        terminal.type("stty -a", "Enter")
        settings = terminal.expect("iutf8").replace(";", "").split()
        assert {"icanon", "echo", "isig", "opost"} <= set(settings)


@pytest.mark.parametrize("key", ["q", "C-c"])
def test_it_leaves_as_other_programs_do(segment: Segment, folder: Path, key: str) -> None:
    with Terminal(folder) as terminal:
        terminal.type(f"{MPNET} top {segment.name} --interval 0.2; echo left=$?", "Enter")
        terminal.expect("mpnet top", "Quit")
        terminal.type(key)
        terminal.expect("left=0")


def rates(device: str, **states: str) -> QueueRates:
    """A queue pair under a heavy load."""
    rx, tx = (
        DirectionRates(
            state=states.get(direction, "running"), fault="none", packets=999_000, bits=99.9e9, drops=99.9e6,
            kicks=1, calls=1, ready=1, entries=1, total_packets=1, total_drops={},
        )
        for direction in ("rx", "tx")
    )  # fmt: skip
    return QueueRates(device=device, queue=63, worker=63, cpu=1.0, rx=rx, tx=tx)


@pytest.mark.parametrize("width", [80, 100, 132])
def test_columns_that_do_not_fit_are_left_out_whole(width: int) -> None:
    rows = [rates("net0"), rates("a-name-that-is-longer", rx="stopped", tx="broken")]
    fitted = fit(queue_columns(History(), width), rows, width)
    cells = [[column.title for column in fitted.columns]]
    cells += [[column.cell(row) for column in fitted.columns] for row in rows]
    assert sum(max(map(len, column)) + 2 for column in zip(*cells, strict=True)) < width
    titles = cells[0]
    assert {"device", "queue", "rx pps", "tx pps", "drops", "cpu", "state"} <= set(titles)
    assert {*titles, *fitted.left_out} == {column.title for column in queue_columns(History(), width)}
    assert ("trend" in titles) == (width > 100)
    state = cells[2][titles.index("state")]
    assert state == ("stopped / broken (none)" if width >= 120 else "stop/BROKEN")


def test_the_trend_takes_what_is_left() -> None:
    history = History()
    for _ in range(50):
        history.add(Snapshot(time=0, seconds=1, devices=[DeviceRates(
            device="net0", state="running", queue_pairs=1, enabled_pairs=1, queues=[rates("net0")], workers=[],
        )]))  # fmt: skip
    lengths = []
    for width in (86, 100, 200):
        fitted = fit(queue_columns(history, width), [rates("net0")], width)
        lengths.append(len(fitted.columns[-1].cell(rates("net0"))))
    assert lengths[0] < lengths[1] < lengths[2] == 40


def test_without_a_terminal_it_names_what_to_do() -> None:
    done = subprocess.run([MPNET, "top"], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "--json-stream" in done.stderr
