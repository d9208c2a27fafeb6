"""The log: one line an event, which a program can read, and a person where one is looking."""

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from mpnet.guest.driver import Driver, Setup
from tests.real.netns import network_namespace, tap
from tests.real.running import Running, wait_until

TALK = """
import sys
from mpnet.control.log import configure, get_log
configure(*sys.argv[1:])
log = get_log(device="net0")
log.info("worker started", worker=0, remedy="a line\\nand another")
log.error("worker ended", worker=1)
try:
    1 / 0
except ZeroDivisionError as error:
    log.error("session failed", exc_info=error)
"""


def talk(*arguments: str, terminal: bool) -> str:
    """What a process that logs writes to its stderr."""
    command = [sys.executable, "-c", TALK, *arguments]
    if not terminal:
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stderr
    ours, theirs = os.openpty()
    with os.fdopen(ours, "rb", buffering=0) as screen, os.fdopen(theirs, "wb", buffering=0) as stderr:
        subprocess.run(command, stderr=stderr, timeout=120, check=True)
        return screen.read(1 << 16).decode()


@pytest.mark.parametrize(("arguments", "terminal"), [([], False), (["auto"], False), (["json"], True)])
def test_for_programs_each_line_is_an_event_as_json(arguments: list[str], terminal: bool) -> None:
    first, second, third = map(json.loads, talk(*arguments, terminal=terminal).splitlines())
    assert first.pop("timestamp").endswith("Z")
    remedy = "a line\nand another"
    assert first == {"device": "net0", "event": "worker started", "level": "info", "worker": 0, "remedy": remedy}
    assert (second["level"], second["worker"]) == ("error", 1)
    assert third["exception"].endswith("ZeroDivisionError: division by zero")


@pytest.mark.parametrize(("arguments", "terminal"), [([], True), (["text"], False)])
def test_for_people_each_line_begins_with_what_happened(arguments: list[str], terminal: bool) -> None:
    lines = talk(*arguments, terminal=terminal).splitlines()
    for word in ("worker started", "device", "net0", "worker", "0"):
        assert word in lines[0]
    assert "worker ended" in lines[1]  # a line feed within a value does not make a line


JOURNAL = """
import os
status = os.fstat(2)
os.environ["JOURNAL_STREAM"] = f"{status.st_dev}:{status.st_ino}"
"""


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_under_the_journal_each_line_has_its_priority(log_format: str) -> None:
    command = [sys.executable, "-c", JOURNAL + TALK, log_format]
    lines = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stderr.splitlines()
    assert [line[:3] for line in lines[:2]] == ["<6>", "<3>"]
    assert all(line.startswith("<3>") for line in lines[2:])  # a traceback, on one line or several


def test_a_value_of_any_length_makes_no_line_of_any_length() -> None:
    script = TALK + 'log.info("x" , problem="y" * 1_000_000, exception="z" * 1_000_000 + "end")\n'
    command = [sys.executable, "-c", script, "json"]
    stderr = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stderr
    line = json.loads(stderr.splitlines()[-1])
    assert len(line["problem"]) == len(line["exception"]) == 4096
    assert line["exception"].endswith("end")


def test_what_is_of_a_lower_level_is_not_written() -> None:
    lines = talk("json", "error", terminal=False).splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["worker ended", "session failed"]


def test_what_happens_to_a_device_is_logged_with_device_queue_and_worker() -> None:
    with (
        tempfile.TemporaryDirectory(prefix="mpnet-") as folder,
        network_namespace(),
        tap("tap0"),
        Running(Path(folder), "tap0", queue_pairs=2) as device,
    ):
        with socket.socket(socket.AF_UNIX) as front_end:
            front_end.connect(str(device.socket))
            features = struct.pack("<IIIQ", 2, 1, 8, 1 << 63)  # SET_FEATURES, with one that was not offered
            front_end.sendall(features)
            wait_until(lambda: "front-end disconnected" in device.log, "it is refused")
        with Driver.connect(device.socket, Setup(queue_pairs=2)) as driver:
            killed = device.workers()[1]
            os.kill(killed, signal.SIGKILL)
            wait_until(lambda: device.workers()[1:] not in ([], [killed]), "the worker is replaced")
            tx = driver.pairs[1].tx
            driver.memory.write(tx.guest.avail + 2, struct.pack("<H", 5000))
            assert tx.ring.kick_fd is not None
            os.eventfd_write(tx.ring.kick_fd, 1)
            wait_until(lambda: "avail_index" in device.log, "the fault is logged")
        device.call("worker.scale", device="net0", count=1)
        device.stop()
        events = [json.loads(line) for line in device.log.splitlines()]
    assert all(event.keys() >= {"event", "level", "timestamp"} for event in events)

    def find(name: str) -> list[dict[str, Any]]:
        return [event for event in events if event["event"] == name]

    of_device = ["front-end connected", "features negotiated", "front-end disconnected", "worker started"]
    of_device += ["worker ended", "the guest broke a ring", "queue pair moved", "worker stopped"]
    for name in of_device:
        assert {event["device"] for event in find(name)} == {"net0"}
    (ended,) = find("worker ended")
    assert (ended["level"], ended["worker"], ended["pid"], ended["reason"]) == ("warning", 1, killed, "killed")
    broken = find("the guest broke a ring")[0]  # and again where it is moved
    assert [broken[name] for name in ("queue", "ring", "worker", "fault")] == [1, 3, 1, "avail_index"]
    (moved,) = find("queue pair moved")
    assert [moved[name] for name in ("queue", "worker", "previous")] == [1, 0, 1]
    assert "features" in find("features negotiated")[0]
    assert "features acked that were not offered" in find("front-end disconnected")[0]["reason"]
