"""What workers get from the server that they are forked from."""

import asyncio
import ctypes
import os
import socket
import subprocess
import sys

from mpnet.control.launcher import WARM, Launcher

PATIENCE = 240.0


def tell(_device: str, _slot: int, sock: socket.socket) -> None:
    """A worker that sends whether the C library has only ever seen one thread: 1 or 0."""
    sock.send(ctypes.c_char.in_dll(ctypes.CDLL(None), "__libc_single_threaded").value)


def ask() -> int:
    """What ``tell`` says in a worker of a server that is as warm as the real one."""
    launcher = Launcher("tests.test_launcher:tell", (WARM,))
    process, channel = asyncio.run(launcher.launch("test", 0))
    process.join(PATIENCE)
    (answer,) = os.read(channel.fileno(), 1)
    channel.close()
    launcher.close()
    return answer


def test_no_thread_makes_a_workers_system_calls_slower() -> None:
    # In a process of its own: this one's server may be warm already, and made by whoever came first.
    environment = {name: value for name, value in os.environ.items() if not name.endswith("NUM_THREADS")}
    command = [sys.executable, "-c", "from tests.test_launcher import ask; print(ask())"]
    answer = subprocess.run(command, env=environment, timeout=PATIENCE, check=True, stdout=subprocess.PIPE)
    assert answer.stdout == b"1\n"
