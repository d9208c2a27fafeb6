"""``mpnet guest qemu`` on a terminal: what it says, a shell in the guest, and both ways to leave."""

import os
import pty
import re
import select
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from mpnet.cli import guest
from mpnet.cli.main import cli
from mpnet.guest.linux.qemu import VhostUserNic
from tests.real.asked import LINUX_GUEST, real
from tests.real.netns import network_namespace, tap
from tests.real.running import MPNET, Running

MAC = "52:54:00:12:34:56"
MTU = 1400
PATIENCE = 240.0
CTRL_A = b"\x01"


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, *command: str) -> None:
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        )
        os.close(theirs)
        self.said = ""

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)

    def type(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def wait_for(self, pattern: str) -> str:
        """Read until the pattern has been said; what was said since the last time."""
        deadline = time.monotonic() + PATIENCE
        new = ""
        while not re.search(pattern, new):
            left = deadline - time.monotonic()
            assert left > 0, f"{pattern!r} was not said: {self.said}"
            assert select.select([self._ours], [], [], left)[0], f"{pattern!r} was not said: {self.said}"
            data = os.read(self._ours, 4096).decode(errors="replace")
            new += data
            self.said += data
        return new

    def status(self) -> int:
        """Read to the end; the exit status."""
        try:
            while select.select([self._ours], [], [], PATIENCE)[0]:
                self.said += os.read(self._ours, 4096).decode(errors="replace")
        except OSError:  # as Linux says that the other side is closed
            return self.process.wait(PATIENCE)
        raise AssertionError(f"the command did not end: {self.said}")


@pytest.fixture(scope="module")
def served() -> Iterator[Running]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mpnet-guest-")))
        stack.enter_context(network_namespace())
        name = stack.enter_context(tap("tap0", "192.0.2.1/24"))
        yield stack.enter_context(Running(folder, name, 2, words=f"mac={MAC},mtu={MTU}"))


@contextmanager
@real(*LINUX_GUEST)
def booted(served: Running) -> Iterator[Terminal]:
    options = ("--device", "net0", "--smp", "2", "--memory", "512", "--address", "192.0.2.2/24")
    with Terminal(str(MPNET), "guest", "qemu", *options, "--control-socket", str(served.control)) as terminal:
        first = terminal.wait_for("\n")
        assert f"a guest on net0: 2 queue pairs, {MAC}" in first
        assert "Ctrl-A X" in first
        terminal.wait_for("/ # ")
        yield terminal


def test_guest_has_what_the_device_has(served: Running) -> None:
    with booted(served) as terminal:
        terminal.type(b"cat /sys/class/net/eth0/address /sys/class/net/eth0/mtu; ping -c 1 192.0.2.1\r")
        said = terminal.wait_for("packet loss")
        assert MAC in said
        assert re.search(rf"\b{MTU}\b", said)
        assert "1 packets received" in said
        terminal.type(b"ethtool -l eth0 | grep Combined; nproc; echo en''d\r")
        assert re.findall(r"Combined:\s+(\d)\s+Combined:\s+(\d)\s+(\d)", terminal.wait_for("end")) == [
            ("2", "2", "2")
        ]
        assert served.show()["session"]["front_end"]["name"].startswith("qemu-system")
        terminal.type(b"exit\r")
        assert terminal.status() == 0
    assert served.process.poll() is None


def test_ctrl_a_x_leaves_at_any_time(served: Running) -> None:
    with booted(served) as terminal:
        terminal.type(b"sleep 1000\r")
        terminal.wait_for("sleep")
        terminal.type(CTRL_A + b"x")
        assert terminal.status() == 0


def test_a_device_that_is_not_there_is_named(served: Running) -> None:
    options = ("--device", "net7", "--control-socket", str(served.control))
    done = subprocess.run(
        [str(MPNET), "guest", "qemu", *options], capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert done.returncode == 1
    assert done.stderr.startswith("mpnet: error: ")
    assert "net7" in done.stderr


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest, "nic_of", lambda *_: VhostUserNic(socket="net0.sock"))
    monkeypatch.setattr(guest.debian, "missing_packages", lambda: ["qemu-system-x86", "ethtool"])
    done = CliRunner().invoke(cli, ["guest", "qemu", "--device", "net0"])
    assert done.exit_code == 1
    assert "apt-get install --no-install-recommends qemu-system-x86 ethtool" in done.stderr
