"""A worker process that moves no packets: it answers control as its script says and notes what it was told.

Its script is the file ``script_of(device)``: lines of ``slot request action``, each taken once. Actions are die,
exit, forbidden, sigsys, unisolated, hang, pause, deaf (to SIGTERM from then on), refuse, break and command:HEX.
What it was told goes to ``<file>.log``, as JSON lines.
"""

import json
import os
import signal
import socket
import tempfile
import time
from pathlib import Path

import msgspec
from setproctitle import setproctitle

from mpnet.rpc.channel import Channel, ChannelClosedError
from mpnet.rpc.worker import (
    AttachPair,
    ControlCommand,
    DetachPair,
    Done,
    Failed,
    Forbidden,
    Isolated,
    Request,
    RingBroken,
    SetRing,
    Shutdown,
    StopRing,
)
from mpnet.segment import process
from mpnet.segment.segment import Segment


def script_of(device: str) -> Path:
    """Not from the environment: workers have that of the fork server, which many tests share."""
    return Path(tempfile.gettempdir()) / f"{device}.script"


def run(device: str, slot: int, sock: socket.socket, segment_fd: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    script = script_of(device)
    os.close(segment_fd)
    segment = Segment.attach(device)
    record = segment.workers[slot]
    record.pid, record.start_ns = os.getpid(), time.time_ns()
    setproctitle(process.worker_title(device, slot))
    record.start_ticks = process.start_ticks(record.pid)
    record.heartbeat_ns = time.monotonic_ns()
    channel = Channel(sock, Request)
    sock.settimeout(0.1)
    taps: dict[int, int] = {}
    while True:
        try:
            message, fds = channel.receive()
        except TimeoutError:
            record.heartbeat_ns = time.monotonic_ns()
            continue
        except ChannelClosedError:
            time.sleep(0.1)  # as the real one: control's death is no reason to stop
            continue
        count = len(fds)
        _keep(taps, message, fds)
        _note(script, slot, message, count)
        action = _action(script, slot, type(message).__name__) or ""
        if action == "forbidden":
            channel.send(Forbidden("openat", "mpnet.workers.rings:1"))
        elif action == "unisolated":
            channel.send(Isolated({"landlock": "this kernel has no Landlock"}))
        _misbehave(action)
        channel.send(Failed("the script says no") if action == "refuse" else _obey(segment, message))
        if action == "break":
            channel.send(RingBroken(message.index, 1))
        elif action.startswith("command:"):
            channel.send(ControlCommand(bytes.fromhex(action.removeprefix("command:"))))
        if isinstance(message, Shutdown):
            return


def _keep(taps: dict[int, int], message: Request, fds: list[int]) -> None:
    """Hold the TAP queues of attached pairs, and nothing else."""
    if isinstance(message, AttachPair) and fds:
        taps[message.pair] = fds.pop()
    elif isinstance(message, DetachPair) and message.pair in taps:
        fds.append(taps.pop(message.pair))
    for fd in fds:
        os.close(fd)


def _misbehave(action: str) -> None:
    if action == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action in {"forbidden", "sigsys"}:
        os.kill(os.getpid(), signal.SIGSYS)
    elif action == "exit":
        os._exit(3)
    elif action == "pause":
        time.sleep(0.5)
    elif action == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    elif action == "hang":
        while True:
            time.sleep(60)


def _obey(segment: Segment, message: Request) -> Done:
    if isinstance(message, SetRing):
        ring = segment.rings[message.index]
        if message.base is not None:
            ring.place = message.base
        ring.state, ring.entries = 2 if message.enabled else 1, message.size
    elif isinstance(message, StopRing):
        segment.rings[message.index].state = 0
        return Done(int(segment.rings[message.index].place))
    return Done()


def _note(script: Path, slot: int, message: msgspec.Struct, fds: int) -> None:
    line = {"slot": slot, "pid": os.getpid(), "fds": fds, **msgspec.to_builtins(message)}
    with script.with_suffix(".log").open("a") as log:
        log.write(json.dumps(line, default=bytes.hex) + "\n")


def _action(script: Path, slot: int, request: str) -> str | None:
    """The first action left for this slot and request; taking it uses it up."""
    for number, line in enumerate(script.read_text().splitlines()):
        wanted_slot, wanted_request, action = line.split()
        token = script.with_suffix(f".{number}")
        if (int(wanted_slot), wanted_request) == (slot, request) and not token.exists():
            token.touch()
            return action
    return None
