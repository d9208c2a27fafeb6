"""``mpnet demo`` as a person runs it: what it shows, what it answers, and that it leaves nothing behind."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from mpnet.cli import demo as command
from mpnet.cli.main import cli
from mpnet.demo.meter import Meter
from mpnet.demo.summary import (
    NOT_ASKED_FOR,
    Check,
    Experiment,
    Part,
    RingTotals,
    Summary,
    ping_check,
    rings_check,
)
from mpnet.demo.watch import Watch
from mpnet.segment.layout import DropReason
from mpnet.segment.segment import Segment
from tests.real.asked import LINUX_GUEST, NETWORK, real
from tests.real.running import MPNET, wait_until

PATIENCE = 240
"""Seconds, for a hang: a first start compiles."""


@real(NETWORK)
def run_demo(*options: str, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*prefix, str(MPNET), "demo", *options], capture_output=True, text=True, check=False, timeout=PATIENCE
    )


def assert_part(part: dict[str, Any]) -> None:
    assert all(check["ok"] for check in part["checks"]), part
    assert [(ring["queue"], ring["direction"]) for ring in part["rings"]] == [
        (queue, direction) for queue in (0, 1) for direction in ("rx", "tx")
    ]
    for ring in part["rings"]:
        assert ring["frames"] > 0, ring
        assert ring["bytes"] >= 60 * ring["frames"], ring


def test_embedded_guest_and_kernel_exchange_every_datagram() -> None:
    done = run_demo("--guest", "embedded", "--seconds", "1", "--json", "--no-experiment")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["ok"] is True
    assert summary["start_to_first_packet_seconds"] > 0
    (part,) = summary["parts"]
    assert part["guest"] == "mpnet's own driver"
    assert_part(part)
    assert [check["name"] for check in part["checks"]] == [
        "ping from the host's kernel",
        "guest to host",
        "host to guest",
        "every queue carried traffic",
    ]
    # Frames of the stream alone, both ways: what the kernel sent is what the guest got, and the reverse.
    sent = sum(ring["frames"] for ring in part["rings"] if ring["direction"] == "tx")
    assert f"{sent:,} sent, {sent:,} received" in part["checks"][1]["detail"]
    assert all(ring["drops"] == {} for ring in part["rings"])
    assert "queue pair 0  rx" in done.stderr


@real(*LINUX_GUEST)
def test_linux_guest_follows_on_the_same_device() -> None:
    done = run_demo("--guest", "qemu", "--seconds", "2", "--no-experiment")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "Guest: Linux in QEMU" in done.stdout
    assert "5 of 5 answered" in done.stdout.split("Guest: Linux")[1]
    assert "MB over TCP" in done.stdout
    assert "everything worked" in done.stdout


def test_an_ordinary_user_needs_no_root() -> None:
    # User 1000 of a user namespace: without any capability, and with the files of whoever runs the tests.
    as_user = ("unshare", "--user", "--map-user=1000", "--map-group=1000")
    done = run_demo("--guest", "embedded", "--seconds", "1", "--json", prefix=as_user)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert_part(summary["parts"][0])
    assert [row["configuration"] for row in summary["experiment"]["rows"]] == ["gro=off", "gro=on"]
    assert "<svg" in Path(summary["experiment"]["report"]).read_text()


def test_without_user_namespaces_the_remedy_is_named() -> None:
    # A namespace in which one more may be made: the one in which the demo is an ordinary user.
    script = 'echo 1 >/proc/sys/user/max_user_namespaces && exec unshare --user --map-user=1000 "$@"'
    prefix = ("unshare", "--user", "--map-root-user", "sh", "-c", script, "sh")
    done = run_demo("--guest", "embedded", prefix=prefix)
    assert done.returncode == 1
    assert done.stderr.startswith("mpnet: error: no network namespace of one's own can be made here")
    assert "user.max_user_namespaces" in done.stderr
    assert "run as root" in done.stderr


@pytest.fixture
@real(NETWORK)
def demo_with_traffic() -> Iterator[subprocess.Popen[str]]:
    """A demo whose embedded guest is at work, to be ended."""
    process = subprocess.Popen(
        [str(MPNET), "demo", "--guest", "embedded", "--seconds", "120"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if "queue pair 1  rx" in line:
                break
        assert process.poll() is None, "".join(said)
        yield process
        process.kill()


def in_namespace(inode: int) -> set[int]:
    """Processes in a network namespace."""
    found = set()
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and (folder / "ns/net").stat().st_ino == inode:
                found.add(int(folder.name))
        except OSError:
            continue
    return found


def folders() -> set[str]:
    return {path.name for path in Path("/tmp").glob("mpnet-demo-*")}  # noqa: S108 - where the demo puts them


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_all_of_it(demo_with_traffic: subprocess.Popen[str], number: signal.Signals) -> None:
    process = demo_with_traffic
    inode = Path(f"/proc/{process.pid}/ns/net").stat().st_ino
    (folder,) = (name for name in os.listdir("/tmp") if own_folder(name, process.pid))  # noqa: PTH208, S108
    assert len(in_namespace(inode)) >= 5  # demo, control, fork server, workers, echo peers
    process.send_signal(number)
    assert process.wait(PATIENCE) == 128 + number
    assert process.stdout is not None
    assert "everything is taken down again" in process.stdout.read()
    wait_until(lambda: not in_namespace(inode), "the end of all of the demo's processes")
    assert f"mpnet.demo{process.pid}" not in os.listdir("/dev/shm")  # noqa: PTH208, S108
    assert folder not in folders()


def own_folder(name: str, pid: int) -> bool:
    """Whether a folder is the one whose management socket a demo's child has."""
    if not name.startswith("mpnet-demo-"):
        return False
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    commands = [Path(f"/proc/{child}/cmdline").read_bytes() for child in children]
    return any(name.encode() in words for words in commands)


def test_what_it_started_ends_when_it_is_killed(demo_with_traffic: subprocess.Popen[str]) -> None:
    process = demo_with_traffic
    inode = Path(f"/proc/{process.pid}/ns/net").stat().st_ino
    (folder,) = (name for name in os.listdir("/tmp") if own_folder(name, process.pid))  # noqa: PTH208, S108
    process.kill()
    wait_until(lambda: not in_namespace(inode), "the end of all of the demo's processes")
    assert f"mpnet.demo{process.pid}" not in os.listdir("/dev/shm")  # noqa: PTH208, S108
    shutil.rmtree(f"/tmp/{folder}")  # noqa: S108 - nobody was left to do it


def totals(queue: int, direction: str, frames: int) -> RingTotals:
    return RingTotals(
        queue=queue, direction=direction, frames=frames, bytes=100 * frames, kicks=1, calls=1, drops={}
    )


def test_exit_status_tells_what_did_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    rings = [totals(0, "rx", 3), totals(0, "tx", 0)]
    checks = [ping_check(3, [0.5, 0.25]), rings_check(rings)]
    assert checks == [
        Check("ping from the host's kernel", ok=False, detail="2 of 3 answered, 0.25 ms at best"),
        Check("every queue carried traffic", ok=False, detail="none on tx of queue pair 0"),
    ]
    part = Part(guest="a guest", seconds=2.0, rings=rings, checks=checks)
    summary = Summary(ok=False, seconds=3.0, start_to_first_packet_seconds=None, parts=[part])
    monkeypatch.setattr(command, "run", lambda *_, **_options: summary)
    said = CliRunner().invoke(cli, ["demo"])
    assert said.exit_code == 1
    assert "something did not work" in said.stdout
    assert "everything worked" not in said.stdout


@pytest.mark.parametrize(
    ("skipped", "experiment", "verdict"),
    [
        ("", None, "everything worked"),
        (NOT_ASKED_FOR, None, "everything worked"),
        ("no kernel", None, "what was shown worked, but without a Linux guest: see above"),
        ("", Experiment(skipped="no scipy"), "what was shown worked, but without the experiment: see above"),
        ("a", Experiment(skipped="b"), "what was shown worked, but without a Linux guest and the experiment"),
    ],
)
def test_a_demo_that_left_something_out_does_not_say_that_everything_worked(
    monkeypatch: pytest.MonkeyPatch, skipped: str, experiment: Experiment | None, verdict: str
) -> None:
    summary = Summary(
        ok=True, seconds=3.0, start_to_first_packet_seconds=None, parts=[], skipped=skipped, experiment=experiment
    )
    monkeypatch.setattr(command, "run", lambda *_, **_options: summary)
    said = CliRunner().invoke(cli, ["demo"])
    assert said.exit_code == 0
    assert verdict in " ".join(said.stdout.split())
    assert ("everything worked" in said.stdout) == (verdict == "everything worked")


def test_nothing_starts_threads_before_the_namespace() -> None:
    # numpy does, and a user namespace is entered by a process of one thread.
    code = "import sys, mpnet.cli.demo; print('numpy' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"


def make_segment() -> Segment:
    """The shared memory of 2 queue pairs, without a name: it is gone with its last mapping."""
    segment = Segment.create(f"meter{os.getpid()}", 2)
    segment.unlink()
    return segment


def test_meter_counts_from_its_beginning() -> None:
    segment = make_segment()
    segment.rings[2].packets, segment.rings[2].drops[DropReason.TAP_DOWN] = 100, 7
    meter = Meter(segment)
    segment.rings[2].packets += 50
    segment.rings[2].bytes += 5000
    segment.rings[3].kicks += 2
    segment.rings[3].drops[DropReason.TOO_LONG] += 1
    rx, tx = meter.totals()[2:]
    assert (rx.queue, rx.direction, rx.frames, rx.bytes, rx.drops) == (1, "rx", 50, 5000, {})
    assert (tx.queue, tx.direction, tx.frames, tx.kicks, tx.drops) == (1, "tx", 0, 2, {"too_long": 1})


def test_meter_tells_what_happened_since_it_was_asked() -> None:
    segment = make_segment()
    meter = Meter(segment)
    segment.rings[0].packets, segment.workers[0].burst_packets, segment.workers[0].bursts[3] = 30, 30, 2
    first, idle = meter.rates()
    assert first.rx_frames > 0
    assert first.tx_frames == 0
    assert first.burst == 15
    assert idle.burst == 0
    assert meter.rates()[0].rx_frames == 0


@pytest.mark.parametrize("terminal", [True, False])
def test_watch_shows_a_line_per_queue_pair(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    segment = make_segment()
    monkeypatch.setattr("mpnet.demo.watch._LINE_SECONDS", 0.0)
    screen = io.StringIO()
    with Watch(Console(file=screen, force_terminal=terminal, width=80), Meter(segment)) as watch:
        segment.rings[1].packets = 1
        watch.look(0.0)
    assert "queue pair 0" in screen.getvalue()
    assert "queue pair 1" in screen.getvalue()
    assert ("\x1b[" in screen.getvalue()) is terminal
